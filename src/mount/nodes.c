#include "base/clock.h"
#include "base/names.h"
#include "base/picture.h"
#include "mount/internal.h"
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

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

bool generation_has(const struct generation_outline *g, enum generation_text text)
{
	if (g->hidden & 1u << text)
		return false;
	switch (text) {
	case GTEXT_PROMPT:
		return g->has_prompt;
	case GTEXT_REQUEST:
		return g->has_request;
	case GTEXT_RESPONSE:
		return g->has_response;
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
	/* What was there before this mount is not announced. */
	if (since_ms < m->since_ms)
		return true;
	/* A clock that was set back must not hide a name for long. */
	const int64_t age = clock_wall_ms() - since_ms;
	return age >= NOTIFIER_OVERDUE_MS || age < 0 || !notifier_works(m->notifier) ||
		notifier_is_announced(m->notifier, parent, ino);
}

bool derived_is_visible(struct mount *m, fuse_ino_t parent, const struct derived *d)
{
	return d->noted || is_visible(m, parent, ino_of_derived(d), d->since_ms);
}

/* The helper meets a name when it has made it, or when it is too old to be made and is not to be made
 * all the same (a prompt has another name). */
static bool is_there(struct mount *m, fuse_ino_t parent, fuse_ino_t ino, int64_t since_ms,
	bool for_helper)
{
	if (!for_helper)
		return is_visible(m, parent, ino, since_ms);
	if (notifier_is_to_come(m->notifier, parent, ino))
		return false;
	return since_ms < m->since_ms || clock_wall_ms() - since_ms >= NOTIFIER_NEW_MS ||
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
	const bool there = for_helper ? is_there(m, parent, *ino, d.since_ms, true)
				      : derived_is_visible(m, parent, &d);
	return there ? 0 : -ENOENT;
}

static int find_entry(struct mount *m, const char *name, struct generation_entry *g,
	bool for_helper)
{
	if (name[0] == '.' || !names_is_hub_id(name))
		return -ENOENT;
	const int rc = generation_entry_find(m->cat, name, g);
	if (rc == -ENOENT)
		return names_is_lookup_id(name) && !for_helper ? 1 : -ENOENT;
	if (rc < 0)
		return rc == -ESTALE ? -ENOENT : rc;

	const fuse_ino_t ino = ino_make(INO_GENERATION, g->id);
	return is_there(m, STATIC_GENERATIONS, ino, g->created_ms, for_helper) ? 0 : -ENOENT;
}

static int find_generation(struct mount *m, const char *name, fuse_ino_t *ino, bool for_helper)
{
	struct generation_entry g;
	const int rc = find_entry(m, name, &g, for_helper);

	if (rc == 0)
		*ino = ino_make(INO_GENERATION, g.id);
	return rc;
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
			!is_there(m, parent, *ino, i.listed_ms, for_helper))
			rc = -ENOENT;
	}
	image_release(&i);
	return rc;
}

static int find_in_generation(struct mount *m, int64_t id, const char *name, fuse_ino_t *ino,
	bool for_helper)
{
	struct generation_outline g;

	for (int t = 0; t < GTEXT_COUNT; t++) {
		if (strcmp(gtexts[t].name, name) != 0)
			continue;
		const int rc = generation_outline(m->cat, id, &g);
		*ino = ino_make(INO_TEXT, id << 4 | t);
		return rc < 0 ? rc : generation_has(&g, (enum generation_text)t) ? 0 : -ENOENT;
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

void nodes_warm(struct mount *m)
{
	struct generation_outline outline;
	struct generation_entry entry;
	struct derived d;
	struct image i;
	struct node n;

	tree_get(m->cat, TREE_ROOT, &n);
	tree_lookup(m->cat, TREE_ROOT, "", &n);
	derived_lookup(m->cat, TREE_ROOT, "_.png", &d);
	generation_entry_find(m->cat, "", &entry);
	generation_outline(m->cat, 0, &outline);
	if (image_find(m->cat, 0, 1, &i) == 0)
		image_release(&i);
	if (image_get(m->cat, 0, &i) == 0)
		image_release(&i);
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

/* Meanwhile the kernel lets nobody make or remove a folder in /generations; what the hub says later is
 * there at the next look-up. */
enum { ADOPT_MS = 5 * 1000 };

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

/* One of a million: what its look-up has read is all that its attributes need. */
static void lookup_generation(struct mount *m, fuse_req_t req, const char *name)
{
	struct generation_entry g;
	struct fuse_entry_param e;
	const int rc = find_entry(m, name, &g, is_helper(m, req));

	if (rc == 1) {
		ask_hub(m, req, name);
	} else if (rc < 0) {
		fuse_reply_err(req, -rc);
	} else {
		generation_node_entry(m, &g, &e);
		fuse_reply_entry(req, &e);
	}
}

/* Names beside a prompt come and go by themselves; a prompt's own comes by a call on this mount, which
 * the kernel sees. So it may keep that there is none: a copier asks for each name more than once. */
static bool comes_by_a_call(fuse_ino_t parent, const char *name)
{
	return ino_type(parent) == INO_TREE && names_is_prompt(name);
}

void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct mount *m = fuse_req_userdata(req);
	fuse_ino_t ino = 0;

	if (parent == STATIC_GENERATIONS) {
		lookup_generation(m, req, name);
		return;
	}
	const int rc = node_find(m, parent, name, &ino, is_helper(m, req));
	if (rc == -ENOENT && ino_type(parent) == INO_TREE &&
		ghosts_find(m->ghosts, ino_id(parent), name, fuse_req_ctx(req)->pid, false, &ino)) {
		struct fuse_entry_param e = {.ino = ino};
		double timeout;

		/* A picture is still read under /generations, of which this is the inode: only its
		 * own size will do. A text is gone; all that is asked of it is to go away. */
		if (known_stat(m, ino, &e.attr, &timeout) < 0)
			e.attr = (struct stat){.st_ino = ino, .st_mode = S_IFREG | 0444,
				.st_nlink = 1, .st_uid = m->uid, .st_gid = m->gid};
		fuse_reply_entry(req, &e);
		return;
	}
	if (rc == -ENOENT && comes_by_a_call(parent, name)) {
		const struct fuse_entry_param none = {.ino = 0,
			.entry_timeout = node_entry_timeout(parent, ino_make(INO_TREE, 0))};

		fuse_reply_entry(req, &none);
	} else if (rc < 0) {
		fuse_reply_err(req, -rc);
	} else {
		reply_entry(m, req, parent, ino);
	}
}
