#include "base/buf.h"
#include "mount/internal.h"
#include <errno.h>
#include <fcntl.h>

enum { README_MAX = 16 * 1024 };

/* A text as it was when it was opened; a log grows, for whoever follows it (tail -f). */
struct snapshot {
	struct list link;
	fuse_ino_t ino;
	char *text; /* a log's under snapshots_lock, with len */
	size_t len;
	struct control *control; /* of who writes to /control, else NULL */
};

static struct snapshot *snapshot_of(const struct fuse_file_info *fi)
{
	return (struct snapshot *)(uintptr_t)fi->fh;
}

/* ---- README.txt ---- */

static char *readme(struct mount *m)
{
	CLEANUP_FREE char *hub = NULL;
	struct buf b;

	engine_text(m->engine, TEXT_HUB, 0, &hub, NULL);
	buf_init(&b, README_MAX);
	buf_printf(&b,
		"This folder is an image generator (imagehubfs " VERSION ").\n\n"
		"%s%s\n"
		"Make a picture: write a prompt into a file that ends in .prompt.\n\n"
		"    cd '%s'\n"
		"    echo 'a cat on a red sofa' > requests/cat.prompt\n"
		"    cat requests/cat.wait            # follows it to its end\n"
		"    cp requests/cat.png ~/\n\n",
		hub ? hub : "",
		m->config.local ? "It is the hub inside of this program: what it draws is drawn by "
				  "no model.\n"
				: "",
		m->path);
	buf_addstr(&b,
		"Beside a prompt\n"
		"    cat.status    one line: what became of it, and what it cost\n"
		"    cat.error     when it went wrong: why, whether it was charged, what to do\n"
		"    cat.wait      (not listed) reading it waits and shows the progress\n"
		"    cat.png       the picture; cat-1.png, cat-2.png … when n is above 1\n"
		"    references/   every picture in it is a reference image of the prompts here\n"
		"    defaults.yaml model, size, quality, n for all prompts here and below\n\n"
		"A prompt may begin with settings:\n"
		"    ---\n"
		"    size: 1536x1024\n"
		"    quality: high\n"
		"    n: 4\n"
		"    ---\n"
		"    A cinematic photo of a perfume bottle on black marble\n"
		"reference_image: [a.png, ../b.png] among them names reference pictures.\n\n"
		"Elsewhere\n"
		"    credits       the balance          models/       what the hub offers\n"
		"    control       pause, retry, again, cancel, approve: read it\n"
		"    generations/  every generation, with its log and its pictures\n\n"
		"The same text saved again under its name costs nothing; a changed text is a new\n"
		"picture. To have the same once more: again (see control), or another name.\n"
		"Removing files here refunds nothing.\n");
	buf_printf(&b, "Unmount: fusermount3 -u '%s'\n", m->path);
	return buf_take(&b);
}

/* ---- rendering ---- */

int text_render(struct mount *m, fuse_ino_t ino, char **text, size_t *len)
{
	const int64_t id = ino_id(ino);

	switch (ino_type(ino)) {
	case INO_STATUS:
		return engine_text(m->engine, TEXT_PROMPT_STATUS, id, text, len);
	case INO_ERROR:
		return engine_text(m->engine, TEXT_PROMPT_ERROR, id, text, len);
	case INO_TEXT:
		return (id & 15) < GTEXT_COUNT
			? engine_text(m->engine,
				  generation_text_kind((enum generation_text)(id & 15)), id >> 4,
				  text, len)
			: -ENOENT;
	case INO_MODEL:
		return engine_text(m->engine, TEXT_MODEL, id, text, len);
	default:
		break;
	}
	switch (ino) {
	case STATIC_README:
		*text = readme(m);
		*len = strlen(*text);
		return 0;
	case STATIC_CREDITS:
		return engine_text(m->engine, TEXT_CREDITS, 0, text, len);
	case STATIC_ACCOUNT:
		return engine_text(m->engine, TEXT_ACCOUNT, 0, text, len);
	case STATIC_CONTROL:
		return engine_text(m->engine, TEXT_CONTROL, 0, text, len);
	default:
		return -ENOENT;
	}
}

/* Lines are only ever added to a generation's log. */
static bool is_log(fuse_ino_t ino)
{
	return ino_type(ino) == INO_TEXT && (ino_id(ino) & 15) == GTEXT_LOG;
}

int64_t text_snapshot_size(struct mount *m, fuse_ino_t ino)
{
	int64_t size = -1;

	if (is_log(ino))
		return size;
	pthread_mutex_lock(&m->snapshots_lock);
	list_for_each_safe (pos, next, &m->snapshots) {
		const struct snapshot *s = CONTAINER_OF(pos, struct snapshot, link);

		if (s->ino == ino)
			size = (int64_t)s->len;
	}
	pthread_mutex_unlock(&m->snapshots_lock);
	return size;
}

struct control *text_control(const struct fuse_file_info *fi)
{
	return snapshot_of(fi)->control;
}

/* ---- operations ---- */

void text_open(struct mount *m, fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct snapshot *s = xcalloc(1, sizeof *s);
	const int rc = text_render(m, ino, &s->text, &s->len);

	if (ino == STATIC_CREDITS || ino == STATIC_ACCOUNT)
		engine_want_balance(m->engine);
	if (rc < 0) {
		free(s);
		fuse_reply_err(req, -rc);
		return;
	}
	s->ino = ino;
	if (ino == STATIC_CONTROL && (fi->flags & O_ACCMODE) != O_RDONLY)
		s->control = control_open();
	pthread_mutex_lock(&m->snapshots_lock);
	list_append(&m->snapshots, &s->link);
	pthread_mutex_unlock(&m->snapshots_lock);
	fi->fh = (uint64_t)(uintptr_t)s;
	fi->direct_io = 1;
	fi->noflush = !s->control;
	if (away_reply_open(m, req, fi) < 0)
		text_release(m, fi);
}

static void grow(struct mount *m, struct snapshot *s)
{
	CLEANUP_FREE char *text = NULL;
	size_t len;

	if (text_render(m, s->ino, &text, &len) < 0)
		return;
	pthread_mutex_lock(&m->snapshots_lock);
	if (len > s->len) {
		char *before = s->text;

		s->text = text;
		s->len = len;
		text = before;
	}
	pthread_mutex_unlock(&m->snapshots_lock);
}

void text_read(struct mount *m, fuse_req_t req, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct snapshot *s = snapshot_of(fi);

	if (is_log(s->ino))
		grow(m, s);
	pthread_mutex_lock(&m->snapshots_lock);
	const size_t at = off < 0 || (size_t)off > s->len ? s->len : (size_t)off;
	const size_t n = s->len - at < size ? s->len - at : size;
	/* A copy: once the reader has its answer it may close, and the snapshot goes. */
	CLEANUP_FREE char *bytes = xmalloc(n);

	memcpy(bytes, s->text + at, n);
	pthread_mutex_unlock(&m->snapshots_lock);
	fuse_reply_buf(req, bytes, n);
}

void text_release(struct mount *m, struct fuse_file_info *fi)
{
	struct snapshot *s = snapshot_of(fi);

	pthread_mutex_lock(&m->snapshots_lock);
	list_remove(&s->link);
	pthread_mutex_unlock(&m->snapshots_lock);
	control_close(s->control);
	free(s->text);
	free(s);
}
