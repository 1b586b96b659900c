#include "local/background.h"
#include "base/exit_status.h"
#include "base/log.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/wait.h>

static int parent_status(int fd, pid_t child)
{
	char byte;
	int status;
	ssize_t n;

	do {
		n = read(fd, &byte, 1);
	} while (n < 0 && errno == EINTR);
	if (n == 1)
		return STATUS_OK;
	if (waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status))
		return WEXITSTATUS(status);
	return STATUS_FAILED;
}

int background_begin(struct background *b)
{
	int ends[2];

	b->pipe = -1;
	if (pipe2(ends, O_CLOEXEC) < 0)
		return STATUS_FAILED;
	fflush(NULL);
	const pid_t child = fork();
	if (child < 0) {
		fprintf(stderr, "imagehubfs: no process: %s\n", strerror(errno));
		return STATUS_FAILED;
	}
	if (child > 0) {
		close(ends[1]);
		return parent_status(ends[0], child);
	}
	close(ends[0]);
	b->pipe = ends[1];
	setsid();
	return -1;
}

void background_ready(struct background *b)
{
	if (b->pipe < 0)
		return;
	const int null = open("/dev/null", O_RDWR);

	log_to_syslog();
	for (int fd = 0; null >= 0 && fd < 3; fd++)
		dup2(null, fd);
	if (null > 2)
		close(null);
	if (chdir("/") < 0)
		log_warning("cannot leave the current directory: %s", strerror(errno));
	if (write(b->pipe, "r", 1) < 0)
		log_warning("the starting process is gone");
	close(b->pipe);
	b->pipe = -1;
}
