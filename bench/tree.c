/*
 * tree DIR <LIST - makes the directories ("d PATH") and empty files ("f PATH") of a list, as printed
 * by find -printf '%y %P\n', in its order.
 */
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	char line[4096];

	if (argc != 2 || chdir(argv[1]) < 0)
		err(1, "usage: tree DIR <LIST");
	while (fgets(line, sizeof line, stdin)) {
		const char *path = line + 2;

		line[strcspn(line, "\n")] = '\0';
		if (!*path)
			continue; /* the top itself */
		const int fd = line[0] == 'd' ? mkdir(path, 0755)
					      : open(path, O_WRONLY | O_CREAT | O_EXCL, 0644);
		if (fd < 0)
			err(1, "%s", path);
		if (line[0] != 'd')
			close(fd);
	}
	return 0;
}
