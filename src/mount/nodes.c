#include "base/clock.h"
#include "base/names.h"
#include "base/picture.h"
#include "mount/internal.h"
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

/* Seconds. What changes without the kernel's doing is asked for again; what only changes through it
 * is kept: it knows. Names of pictures in /requests go with their prompt. */
static const double KEEP = 86400, SOON = 1, NEVER = 0;

static const struct {
	const char *name;
	enum static_node node;
} statics[] = {
	{"README.txt", STATIC_README},
	{"credits", STATIC_CREDITS},
	{"account.json", STATIC_ACCOUNT},
	{"models", STATIC_MODELS},
	{"control", STATIC_CONTROL},
	{"generations", STATIC_GENERATIONS},
};

static const struct {
	const char *name;
	enum engine_text kind;
} gtexts[GTEXT_COUNT] = {
	[GTEXT_STATUS] = {"status", TEXT_GENERATION_STATUS},
	[GTEXT_LOG] = {"log", TEXT_GENERATION_LOG},
	[GTEXT_PROMPT] = {"prompt", TEXT_GENERATION_PROMPT},
	[GTEXT_REQUEST] = {"request.json", TEXT_GENERATION_REQUEST},
	[GTEXT_RESPONSE] = {"response.json", TEXT_GENERATION_RESPONSE},
	[GTEXT_ERROR] = {"error", TEXT_GENERATION_ERROR},
};

const char *generation_text_name(enum generation_text text)
{
	return gtexts[text].name;
}

enum engine_text generation_text_kind(enum generation_text text)
{
	return gtexts[text].kind;
}

bool generation_has(const struct generation *g, enum generation_text text)
{
	if (g->hidden & 1u << text)
		return false;
	switch (text) {
	case GTEXT_PROMPT:
		return g->prompt && *g->prompt;
	case GTEXT_REQUEST:
		return g->request_json && *g->request_json;
	case GTEXT_RESPONSE:
		return g->response_json && *g->response_json;
	case GTEXT_ERROR:
		return g->phase == PHASE_FAILED;
	default:
		return true;
	}
}

void image_name(const struct image *i, char name[32])
{
	snprintf(name, 32, "%d.%s", i->number, picture_extension(i->type));
}

bool is_helper(struct mount *m, fuse_req_t req)
{
	return notifier_is_helper(m->notifier, fuse_req_ctx(req)->pid);
}

bool is_visible(struct mount *m, fuse_ino_t parent, fuse_ino_t ino, int64_t since_ms)
{
	const int64_t age = clock_wall_ms() - since_ms;

	/* What was there before this mount is not announced; a clock that was set back must not hide
	 * a name for long. */
	return since_ms < m->since_ms || age >= NOTIFIER_OVERDUE_MS || age < 0 || !notifier_works(m->notifier) ||
		notifier_is_announced(m->notifier, parent, ino);
}

fuse_ino_t ino_of_derived(const struct derived *d)
{
	switch (d->kind) {
	case DERIVED_STATUS:
		return ino_make(INO_STATUS, d->node);
	case DERIVED_WAIT:
		return ino_make(INO_WAIT, d->node);
	case DERIVED_ERROR:
		return ino_make(INO_ERROR, d->node);
	default:
		return ino_make(INO_IMAGE, d->image);
	}
}

bool is_text(fuse_ino_t ino)
{
	switch (ino_type(ino)) {
	case INO_STATIC:
		return ino == STATIC_README || ino == STATIC_CREDITS || ino == STATIC_ACCOUNT ||
			ino == STATIC_CONTROL;
	case INO_STATUS:
	case INO_ERROR:
	case INO_TEXT:
	case INO_MODEL:
		return true;
	default:
		return false;
	}
}

/* ---- attributes ---- */

static void set_times(struct stat *st, int64_t made_ms, int64_t changed_ms)
{
	st->st_mtim = st->st_ctim = clock_timespec(changed_ms);
	st->st_atim = clock_timespec(changed_ms > made_ms ? changed_ms : made_ms);
}

static void stat_own(struct mount *m, mode_t mode, int64_t size, struct stat *st)
{
	st->st_mode = mode;
	st->st_nlink = S_ISDIR(mode) ? 2 : 1;
	st->st_uid = m->uid;
	st->st_gid = m->gid;
	st->st_size = size;
	st->st_blksize = 4096;
	st->st_blocks = (size + 511) / 512;
}

static mode_t mode_of_text(fuse_ino_t ino)
{
	/* A status may be opened for writing by the helper, which may not be root; only it may. */
	return S_IFREG |
		(ino == STATIC_CONTROL || ino_type(ino) == INO_STATUS ? 0644 : 0444);
}

/* When a text's subject last changed. */
static int64_t time_of_text(struct mount *m, fuse_ino_t ino)
{
	const int64_t id = ino_id(ino);
	int64_t ms = 0;

	if (ino_type(ino) == INO_TEXT) {
		struct generation g;
		struct request r;

		if (generation_get(m->cat, id >> 4, &g) == 0) {
			ms = g.changed_ms;
			if (g.request && request_get(m->cat, g.request, &r) == 0) {
				if (r.generation == g.id && r.changed_ms > ms)
					ms = r.changed_ms;
				request_release(&r);
			}
			generation_release(&g);
		}
	} else if (ino_type(ino) == INO_STATUS || ino_type(ino) == INO_ERROR) {
		struct node n;
		struct request r;
		int err;

		if (tree_draft_get(m->cat, id, &err, NULL, &ms) < 0 &&
			tree_get(m->cat, id, &n) == 0 && n.request &&
			request_get(m->cat, n.request, &r) == 0) {
			ms = r.changed_ms;
			request_release(&r);
		}
	} else if (ino == STATIC_CREDITS || ino == STATIC_ACCOUNT) {
		struct wire_balance b;

		if (catalogue_balance_load(m->cat, &b, &ms) == 0)
			wire_balance_release(&b);
	}
	return ms ? ms : m->since_ms;
}

static int stat_text(struct mount *m, fuse_ino_t ino, struct stat *st)
{
	int64_t size = text_snapshot_size(m, ino);
	const int64_t changed = time_of_text(m, ino);

	if (size < 0) {
		char *text = NULL;
		size_t len = 0;
		const int rc = text_render(m, ino, &text, &len);

		/* The balance is not known yet: the file is there, and opening it says why. */
		if (rc < 0 && ino != STATIC_CREDITS && ino != STATIC_ACCOUNT)
			return rc;
		size = rc < 0 ? 0 : (int64_t)len;
		free(text);
	}
	stat_own(m, mode_of_text(ino), size, st);
	set_times(st, changed, changed);
	return 0;
}

static int stat_image(struct mount *m, int64_t id, struct stat *st)
{
	struct image i;
	int rc = image_get(m->cat, id, &i);

	if (rc < 0)
		return rc;
	if (i.size < 0 || i.removed)
		rc = -ENOENT;
	stat_own(m, S_IFREG | 0444, i.size, st);
	set_times(st, i.listed_ms, i.listed_ms);
	image_release(&i);
	return rc;
}

void generation_stat(struct mount *m, int64_t id, int64_t created_ms, int64_t changed_ms,
	struct stat *st)
{
	*st = (struct stat){.st_ino = ino_make(INO_GENERATION, id)};
	stat_own(m, S_IFDIR | 0755, 0, st);
	set_times(st, created_ms, changed_ms);
}

static int stat_generation(struct mount *m, int64_t id, struct stat *st)
{
	struct generation g;
	const int rc = generation_get(m->cat, id, &g);

	if (rc < 0)
		return rc;
	generation_stat(m, id, g.created_ms, g.changed_ms, st);
	generation_release(&g);
	return 0;
}

static int stat_static(struct mount *m, fuse_ino_t ino, struct stat *st)
{
	if (ino < STATIC_ROOT || ino > STATIC_GENERATIONS)
		return -ENOENT;
	if (is_text(ino))
		return stat_text(m, ino, st);
	stat_own(m, S_IFDIR | 0755, 0, st);
	st->st_nlink = ino == STATIC_ROOT ? 5 : 2;
	set_times(st, m->since_ms, m->since_ms);
	return 0;
}

static int stat_tree(struct mount *m, int64_t id, struct stat *st)
{
	struct node n;
	const int rc = tree_get(m->cat, id, &n);

	if (rc == 0)
		*st = n.st;
	return rc;
}

int node_stat(struct mount *m, fuse_ino_t ino, struct stat *st)
{
	int rc;

	*st = (struct stat){0};
	switch (ino_type(ino)) {
	case INO_STATIC:
		rc = stat_static(m, ino, st);
		break;
	case INO_TREE:
		rc = stat_tree(m, ino_id(ino), st);
		break;
	case INO_WAIT:
		stat_own(m, S_IFREG | 0444, 0, st);
		set_times(st, m->since_ms, clock_wall_ms());
		rc = 0;
		break;
	case INO_GENERATION:
		rc = stat_generation(m, ino_id(ino), st);
		break;
	case INO_IMAGE:
		rc = stat_image(m, ino_id(ino), st);
		break;
	default:
		rc = stat_text(m, ino, st);
		break;
	}
	st->st_ino = ino;
	return rc;
}

double node_attr_timeout(fuse_ino_t ino)
{
	switch (ino_type(ino)) {
	case INO_IMAGE:
		return KEEP;
	case INO_TREE:
		return KEEP;
	default:
		return NEVER;
	}
}

/* A picture keeps its name in its generation's folder until that name is removed, through the kernel;
 * beside a prompt it goes with the prompt. */
static double entry_timeout(fuse_ino_t parent, fuse_ino_t ino)
{
	switch (ino_type(ino)) {
	case INO_STATIC:
	case INO_TREE:
	case INO_GENERATION:
		return KEEP;
	case INO_IMAGE:
		return ino_type(parent) == INO_GENERATION ? KEEP : SOON;
	case INO_TEXT:
	case INO_MODEL:
		return SOON;
	default:
		return NEVER;
	}
}

int node_entry(struct mount *m, fuse_ino_t parent, fuse_ino_t ino, struct fuse_entry_param *e)
{
	*e = (struct fuse_entry_param){.ino = ino,
		.attr_timeout = node_attr_timeout(ino),
		.entry_timeout = entry_timeout(parent, ino)};
	return node_stat(m, ino, &e->attr);
}

/* ---- look-up ---- */

int derived_find(struct mount *m, int64_t dir, const char *name, struct derived *d)
{
	return derived_lookup(m->cat, dir, name, d);
}

static int find_in_requests(struct mount *m, int64_t dir, const char *name, fuse_ino_t *ino,
	bool for_helper)
{
	const fuse_ino_t parent = ino_make(INO_TREE, dir);
	struct derived d;
	struct node n;

	int rc = tree_lookup(m->cat, dir, name, &n);
	if (rc == 0)
		*ino = ino_make(INO_TREE, n.id);
	if (rc != -ENOENT)
		return rc;
	rc = derived_find(m, dir, name, &d);
	if (rc < 0)
		return rc;
	*ino = ino_of_derived(&d);
	if (d.kind == DERIVED_WAIT)
		return 0;
	if (for_helper)
		return notifier_is_announced(m->notifier, parent, *ino) ? 0 : -ENOENT;
	return is_visible(m, parent, *ino, d.since_ms) ? 0 : -ENOENT;
}

static int find_generation(struct mount *m, const char *name, fuse_ino_t *ino, bool for_helper)
{
	int64_t id, created;
	int rc;

	if (name[0] == '.' || !names_is_hub_id(name))
		return -ENOENT;
	rc = generation_find_id(m->cat, name, &id, &created);
	if (rc == -ENOENT)
		return names_is_lookup_id(name) && !for_helper ? 1 : -ENOENT;
	if (rc < 0)
		return rc == -ESTALE ? -ENOENT : rc;
	*ino = ino_make(INO_GENERATION, id);
	if (for_helper)
		return notifier_is_announced(m->notifier, STATIC_GENERATIONS, *ino) ? 0 : -ENOENT;
	return is_visible(m, STATIC_GENERATIONS, *ino, created) ? 0 : -ENOENT;
}

static int find_image(struct mount *m, int64_t generation, const char *name, fuse_ino_t *ino,
	bool for_helper)
{
	struct image i;
	char own[32];
	int rc;

	if (name[0] < '1' || name[0] > '9')
		return -ENOENT;
	rc = image_find(m->cat, generation, atoi(name), &i);
	if (rc < 0)
		return rc;
	*ino = ino_make(INO_IMAGE, i.id);
	if (i.size < 0 || i.removed || !picture_extension(i.type)) {
		rc = -ENOENT;
	} else {
		const fuse_ino_t parent = ino_make(INO_GENERATION, generation);

		image_name(&i, own);
		if (strcmp(own, name) != 0 ||
			!(for_helper ? notifier_is_announced(m->notifier, parent, *ino)
				     : is_visible(m, parent, *ino, i.listed_ms)))
			rc = -ENOENT;
	}
	image_release(&i);
	return rc;
}

static int find_in_generation(struct mount *m, int64_t id, const char *name, fuse_ino_t *ino,
	bool for_helper)
{
	for (int t = 0; t < GTEXT_COUNT; t++) {
		struct generation g;

		if (strcmp(gtexts[t].name, name) != 0)
			continue;
		int rc = generation_get(m->cat, id, &g);
		if (rc == 0 && !generation_has(&g, (enum generation_text)t))
			rc = -ENOENT;
		if (rc == 0 || rc == -ENOENT)
			generation_release(&g);
		*ino = ino_make(INO_TEXT, id << 4 | t);
		return rc;
	}
	return find_image(m, id, name, ino, for_helper);
}

static int find_model(struct mount *m, const char *name, fuse_ino_t *ino)
{
	if (!names_has_suffix(name, ".json"))
		return -ENOENT;
	for (int64_t k = 1;; k++) {
		CLEANUP_FREE char *id = engine_model_id(m->engine, k);

		if (!id)
			return -ENOENT;
		if (strlen(name) == strlen(id) + 5 && strncmp(name, id, strlen(id)) == 0) {
			*ino = ino_make(INO_MODEL, k);
			return 0;
		}
	}
}

static int find_static(const char *name, fuse_ino_t *ino)
{
	if (strcmp(name, "requests") == 0) {
		*ino = ino_requests();
		return 0;
	}
	for (size_t i = 0; i < ARRAY_SIZE(statics); i++)
		if (strcmp(statics[i].name, name) == 0) {
			*ino = statics[i].node;
			return 0;
		}
	return -ENOENT;
}

int node_find(struct mount *m, fuse_ino_t parent, const char *name, fuse_ino_t *ino,
	bool for_helper)
{
	switch (ino_type(parent)) {
	case INO_TREE:
		return find_in_requests(m, ino_id(parent), name, ino, for_helper);
	case INO_GENERATION:
		return find_in_generation(m, ino_id(parent), name, ino, for_helper);
	case INO_STATIC:
		if (parent == STATIC_ROOT)
			return find_static(name, ino);
		if (parent == STATIC_GENERATIONS)
			return find_generation(m, name, ino, for_helper);
		return parent == STATIC_MODELS ? find_model(m, name, ino) : -ENOTDIR;
	default:
		return -ENOTDIR;
	}
}

/* ---- operations ---- */

static void reply_entry(struct mount *m, fuse_req_t req, fuse_ino_t parent, fuse_ino_t ino)
{
	struct fuse_entry_param e;
	const int rc = node_entry(m, parent, ino, &e);

	if (rc < 0)
		fuse_reply_err(req, -rc);
	else
		fuse_reply_entry(req, &e);
}

enum { ADOPT_MS = 15 * 1000 };

struct asked {
	struct mount *m;
	uint64_t token;
};

static void adopted(void *arg, int error, int64_t generation)
{
	struct asked *asked = arg;
	struct mount *m = asked->m;
	struct parked *p = park_take(m->park, asked->token);

	free(asked);
	if (!p)
		return;
	if (error < 0) {
		fuse_reply_err(p->req, -error);
	} else {
		/* Whoever asked sees it now, and so does everybody. */
		notifier_announced(m->notifier, STATIC_GENERATIONS,
			ino_make(INO_GENERATION, generation));
		reply_entry(m, p->req, STATIC_GENERATIONS,
			ino_make(INO_GENERATION, generation));
	}
	parked_free(p);
}

/* The one look-up that waits for the network: an id that only the hub may know. */
static void ask_hub(struct mount *m, fuse_req_t req, const char *id)
{
	const struct parked what = {
		.kind = PARKED_LOOKUP, .deadline_ms = clock_mono_ms() + ADOPT_MS};
	const uint64_t token = park_add(m->park, req, &what);

	if (token == 0)
		return;
	struct asked *asked = xmalloc(sizeof *asked);
	*asked = (struct asked){m, token};
	notifier_poke(m->notifier);
	engine_adopt(m->engine, id, adopted, asked);
}

void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct mount *m = fuse_req_userdata(req);
	fuse_ino_t ino = 0;
	int rc = node_find(m, parent, name, &ino, is_helper(m, req));

	if (rc == 1) {
		ask_hub(m, req, name);
		return;
	}
	if (rc == -ENOENT && ino_type(parent) == INO_TREE &&
		ghosts_find(m->ghosts, ino_id(parent), name, fuse_req_ctx(req)->pid, false, &ino)) {
		/* As a plain file of no size: all that is asked of it is to go away. */
		struct fuse_entry_param e = {.ino = ino};

		e.attr = (struct stat){.st_ino = ino, .st_mode = S_IFREG | 0444, .st_nlink = 1,
			.st_uid = m->uid, .st_gid = m->gid};
		fuse_reply_entry(req, &e);
		return;
	}
	if (rc < 0)
		fuse_reply_err(req, -rc);
	else
		reply_entry(m, req, parent, ino);
}

void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct mount *m = fuse_req_userdata(req);
	struct stat st;

	(void)fi;
	const int rc = node_stat(m, ino, &st);
	if (rc < 0)
		fuse_reply_err(req, -rc);
	else
		fuse_reply_attr(req, &st, node_attr_timeout(ino));
}
