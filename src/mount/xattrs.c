/*
 * Extended attributes: the facts of a generation on prompts, pictures and folders, and the user's own
 * on the user's own files. On those that are no prompts the facts are as good as any others: a picture
 * that was copied keeps them (mv, rsync -X, tar --xattrs).
 */
#include "base/buf.h"
#include "base/log.h"
#include "base/names.h"
#include "engine/life.h"
#include "mount/internal.h"
#include <errno.h>

enum { LIST_MAX = 128 * 1024 };

static const char own_prefix[] = "user.imagehub.";

/* What there is to say about an inode. */
struct facts {
	char *id, *status, *model, *prompt, *url;
	int64_t credits; /* -1: not known */
	const char *mime;
};

static void facts_release(struct facts *f)
{
	free(f->id);
	free(f->status);
	free(f->model);
	free(f->prompt);
	free(f->url);
}

static void add_request(struct facts *f, const struct request *r)
{
	if (!f->status)
		f->status = xstrdup(life_name(r->state));
	if (!f->model)
		f->model = xstrdup_or_null(r->order.model);
	if (!f->prompt)
		f->prompt = xstrdup_or_null(r->order.prompt);
	if (f->credits < 0)
		f->credits = r->charged;
}

static void add_generation(struct mount *m, struct facts *f, int64_t id)
{
	struct generation g;
	struct request r;

	if (generation_get(m->cat, id, &g) < 0)
		return;
	f->id = xstrdup(g.hub_id);
	f->credits = g.credits;
	f->model = xstrdup_or_null(g.model);
	f->prompt = xstrdup_or_null(g.prompt);
	if (g.request && request_get(m->cat, g.request, &r) == 0) {
		if (r.generation == id)
			add_request(f, &r);
		request_release(&r);
	}
	if (!f->status)
		f->status = xstrdup_or_null(g.status);
	generation_release(&g);
}

static void add_image(struct mount *m, struct facts *f, int64_t id)
{
	struct image i;

	if (image_get(m->cat, id, &i) < 0)
		return;
	add_generation(m, f, i.generation);
	f->mime = picture_mime(i.type);
	f->url = i.url ? log_url(i.url) : NULL;
	image_release(&i);
}

static void add_prompt(struct mount *m, struct facts *f, int64_t node)
{
	struct node n;
	struct request r;

	if (tree_get(m->cat, node, &n) < 0 || n.request == 0 ||
		request_get(m->cat, n.request, &r) < 0)
		return;
	if (r.generation)
		add_generation(m, f, r.generation);
	add_request(f, &r);
	request_release(&r);
}

static bool is_ours(const char *name)
{
	return strncmp(name, own_prefix, strlen(own_prefix)) == 0;
}

static bool is_prompt(struct mount *m, fuse_ino_t ino)
{
	CLEANUP_FREE char *name = tree_name(m->cat, ino_id(ino));

	return name && names_is_prompt(name);
}

static struct facts facts_of(struct mount *m, fuse_ino_t ino)
{
	struct facts f = {.credits = -1};

	if (ino_type(ino) == INO_TREE && is_prompt(m, ino))
		add_prompt(m, &f, ino_id(ino));
	else if (ino_type(ino) == INO_IMAGE)
		add_image(m, &f, ino_id(ino));
	else if (ino_type(ino) == INO_GENERATION)
		add_generation(m, &f, ino_id(ino));
	return f;
}

typedef void fact_fn(void *arg, const char *name, const char *value);

static void each_fact(const struct facts *f, fact_fn *fn, void *arg)
{
	CLEANUP_FREE char *credits =
		f->credits >= 0 ? xasprintf("%lld", (long long)f->credits) : NULL;
	const struct {
		const char *name, *value;
	} all[] = {
		{"user.imagehub.id", f->id},
		{"user.imagehub.status", f->status},
		{"user.imagehub.model", f->model},
		{"user.imagehub.credits", credits},
		{"user.imagehub.prompt", f->prompt},
		{"user.mime_type", f->mime},
		{"user.xdg.origin.url", f->url},
	};

	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		if (all[i].value)
			fn(arg, all[i].name, all[i].value);
}

/* ---- operations ---- */

static void reply_value(fuse_req_t req, const void *value, size_t len, size_t size)
{
	if (size == 0)
		fuse_reply_xattr(req, len);
	else if (len > size)
		fuse_reply_err(req, ERANGE);
	else
		fuse_reply_buf(req, value, len);
}

struct search {
	const char *name;
	char *value;
};

static void match(void *arg, const char *name, const char *value)
{
	struct search *s = arg;

	if (!s->value && strcmp(s->name, name) == 0)
		s->value = xstrdup(value);
}

static bool may_have_fact(struct mount *m, fuse_ino_t ino, const char *name)
{
	if (is_ours(name))
		return ino_type(ino) != INO_TREE || is_prompt(m, ino);
	return ino_type(ino) == INO_IMAGE && strncmp(name, "user.", 5) == 0;
}

void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	struct mount *m = fuse_req_userdata(req);
	struct search s = {.name = name};
	void *value = NULL;
	size_t len = 0;
	int rc = -ENODATA;

	if (strncmp(name, "user.", 5) != 0) {
		/* security.capability is asked for at each write; there are no ACLs here. */
		fuse_reply_err(req, strncmp(name, "system.", 7) == 0 ? EOPNOTSUPP : ENODATA);
		return;
	}
	if (may_have_fact(m, ino, name)) {
		struct facts f = facts_of(m, ino);

		each_fact(&f, match, &s);
		facts_release(&f);
	} else if (ino_type(ino) == INO_TREE) {
		rc = tree_xattr_get(m->cat, ino_id(ino), name, &value, &len);
	}
	if (s.value)
		reply_value(req, s.value, strlen(s.value), size);
	else if (rc == 0)
		reply_value(req, value, len, size);
	else
		fuse_reply_err(req, -rc);
	free(s.value);
	free(value);
}

static void add_name(void *arg, const char *name, const char *value)
{
	(void)value;
	buf_add(arg, name, strlen(name) + 1);
}

/* A prompt may have some of ours from the time when it had another name. */
static void add_own_names(struct mount *m, fuse_ino_t ino, struct buf *b)
{
	CLEANUP_FREE char *names = NULL;
	const bool prompt = is_prompt(m, ino);
	size_t len;

	if (tree_xattr_list(m->cat, ino_id(ino), &names, &len) < 0)
		return;
	for (const char *name = names; name < names + len; name += strlen(name) + 1)
		if (!prompt || !is_ours(name))
			add_name(b, name, NULL);
}

void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	struct mount *m = fuse_req_userdata(req);
	struct facts f = facts_of(m, ino);
	struct buf b;

	buf_init(&b, LIST_MAX);
	each_fact(&f, add_name, &b);
	facts_release(&f);
	if (ino_type(ino) == INO_TREE)
		add_own_names(m, ino, &b);
	reply_value(req, b.data, b.len, size);
	buf_release(&b);
}

/* Only the user's own files take attributes, and prompts none that are ours. */
static int check_own(struct mount *m, fuse_ino_t ino, const char *name)
{
	if (ino_type(ino) != INO_TREE)
		return -EROFS;
	if (is_ours(name) && is_prompt(m, ino))
		return -EPERM;
	if (strncmp(name, "user.", 5) != 0)
		return -EOPNOTSUPP;
	return name[5] ? 0 : -EINVAL;
}

void op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size,
	int flags)
{
	struct mount *m = fuse_req_userdata(req);
	int rc = check_own(m, ino, name);

	if (rc == 0)
		rc = tree_xattr_set(m->cat, ino_id(ino), name, value, size, flags);
	fuse_reply_err(req, -rc);
}

void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	struct mount *m = fuse_req_userdata(req);
	int rc = check_own(m, ino, name);

	if (rc == 0)
		rc = tree_xattr_remove(m->cat, ino_id(ino), name);
	fuse_reply_err(req, -rc);
}
