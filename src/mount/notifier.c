#include "mount/notifier.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"
#include "mount/announced.h"
#include "mount/internal.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum {
	MESSAGE_MAX = 8192,
	EVENTS_MAX = 100000, /* more are dropped, and messages as well: their names just become visible */
	SOCKET_BYTES = 32 * 1024, /* a few dozen messages */
	ROOM_MS = 5,		  /* how soon it is looked for room for more */
};

enum message {
	MESSAGE_CREATE = 'c',
	MESSAGE_FOLDER = 'd',
	MESSAGE_TOUCH = 't',
	MESSAGE_LOOK = 'l',
};

struct event {
	struct list link;
	int64_t at_ms; /* wall */
	struct engine_event what;
};

/* A message that the helper's socket had no room for yet. */
struct message_waiting {
	struct list link;
	char *text;
};

struct notifier {
	struct mount *m;
	char *mountpoint;
	pid_t helper;
	int socket;
	struct list waiting; /* messages, in order; the thread's, as the next */
	int n_waiting;
	atomic_bool works;

	pthread_t thread;
	bool running;
	pthread_mutex_t lock; /* leaf */
	pthread_cond_t wake;
	bool stopping, poked; /* under lock, as all below */
	struct list events;
	int n_events;
	struct announced *announced;
};

/* ---- the helper process ---- */

static void helper_do(const char *mountpoint, enum message what, const char *name)
{
	char path[MESSAGE_MAX + 4096];
	struct stat st;
	int fd = -1;

	snprintf(path, sizeof path, "%s/%s", mountpoint, name);
	if (what == MESSAGE_FOLDER)
		mkdir(path, 0755);
	else if (what == MESSAGE_LOOK)
		stat(path, &st);
	else
		fd = open(path,
			O_WRONLY | O_CLOEXEC | O_NOFOLLOW | (what == MESSAGE_CREATE ? O_CREAT : 0),
			0444);
	if (fd >= 0)
		close(fd);
}

static void close_all_but(int fd)
{
	const int null = open("/dev/null", O_RDWR);

	for (int i = 0; i < 3; i++)
		if (null >= 0 && i != fd)
			dup2(null, i);
	if (fd > 3)
		close_range(3, (unsigned)fd - 1, 0);
	close_range((unsigned)(fd < 3 ? 3 : fd + 1), ~0u, 0);
}

__attribute__((noreturn)) static void helper_main(const char *mountpoint, int fd, pid_t parent)
{
	static const int ignored[] = {SIGINT, SIGHUP, SIGTERM, SIGPIPE};
	char message[MESSAGE_MAX];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(0);
	prctl(PR_SET_NAME, "imagehubfs-note");
	for (size_t i = 0; i < ARRAY_SIZE(ignored); i++)
		signal(ignored[i], SIG_IGN);
	close_all_but(fd);
	if (chdir("/") < 0)
		_exit(1);
	for (;;) {
		const ssize_t n = recv(fd, message, sizeof message - 1, 0);

		if (n <= 0)
			_exit(0);
		message[n] = '\0';
		helper_do(mountpoint, (enum message)message[0], message + 1);
	}
}

struct notifier *notifier_create(const char *mountpoint, char **error)
{
	struct notifier *n = xcalloc(1, sizeof *n);
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		fail(error, -errno, "no socket pair: %s", strerror(errno));
		free(n);
		return NULL;
	}
	const pid_t parent = getpid();

	n->mountpoint = xstrdup(mountpoint);
	n->helper = fork();
	if (n->helper == 0) {
		close(pair[0]);
		helper_main(mountpoint, pair[1], parent);
	}
	close(pair[1]);
	n->socket = pair[0];
	fcntl(n->socket, F_SETFL, O_NONBLOCK);
	setsockopt(n->socket, SOL_SOCKET, SO_SNDBUF, &(int){SOCKET_BYTES}, sizeof(int));
	atomic_store(&n->works, n->helper > 0);
	pthread_mutex_init(&n->lock, NULL);
	thread_cond_init(&n->wake);
	list_init(&n->events);
	list_init(&n->waiting);
	n->announced = announced_create();
	return n;
}

bool notifier_is_helper(const struct notifier *n, pid_t pid)
{
	return n->helper > 0 && pid == n->helper;
}

bool notifier_works(const struct notifier *n)
{
	return atomic_load(&n->works);
}

static void message_end(struct notifier *n, struct message_waiting *w)
{
	list_remove(&w->link);
	n->n_waiting--;
	free(w->text);
	free(w);
}

/* As many as there is room for: the thread has more to do than to wait for the helper, which may be
 * busy for long in a burst, at a slow disk, or stopped. */
static void send_waiting(struct notifier *n)
{
	while (!list_empty(&n->waiting)) {
		struct message_waiting *w =
			CONTAINER_OF(n->waiting.next, struct message_waiting, link);

		if (notifier_works(n) && send(n->socket, w->text, strlen(w->text), MSG_NOSIGNAL) < 0) {
			if (errno == EAGAIN)
				return;
			log_warning("the helper that announces new files has ended; they are still "
				    "there");
			atomic_store(&n->works, false);
		}
		message_end(n, w);
	}
}

/* False when it will not be announced: its name then becomes visible by its age. */
static bool send_message(struct notifier *n, enum message what, const char *path)
{
	struct message_waiting *w;

	if (!notifier_works(n) || n->n_waiting == EVENTS_MAX || strlen(path) + 2 > MESSAGE_MAX)
		return false;
	w = xcalloc(1, sizeof *w);
	w->text = xasprintf("%c%s", what, path);
	list_append(&n->waiting, &w->link);
	n->n_waiting++;
	send_waiting(n);
	return notifier_works(n);
}

/* ---- what was announced ---- */

void notifier_announced(struct notifier *n, uint64_t parent, uint64_t ino)
{
	announced_note(n->announced, parent, ino, true);
	notifier_poke(n);
}

bool notifier_is_announced(struct notifier *n, uint64_t parent, uint64_t ino)
{
	return announced_has(n->announced, parent, ino, true);
}

bool notifier_is_to_come(struct notifier *n, uint64_t parent, uint64_t ino)
{
	return announced_has(n->announced, parent, ino, false) &&
		!announced_has(n->announced, parent, ino, true);
}

/* ---- events ---- */

void notifier_changed(struct notifier *n, const struct engine_event *what)
{
	struct event *e = xcalloc(1, sizeof *e);

	e->what = *what;
	e->at_ms = clock_wall_ms();
	pthread_mutex_lock(&n->lock);
	if (n->n_events < EVENTS_MAX) {
		list_append(&n->events, &e->link);
		n->n_events++;
		e = NULL;
	}
	pthread_cond_signal(&n->wake);
	pthread_mutex_unlock(&n->lock);
	free(e);
}

void notifier_poke(struct notifier *n)
{
	pthread_mutex_lock(&n->lock);
	n->poked = true;
	pthread_cond_signal(&n->wake);
	pthread_mutex_unlock(&n->lock);
}

/* Once each: a second call would look like another change of the file. False when it was before. */
static bool announce(struct notifier *n, enum message what, const char *path, uint64_t parent,
	uint64_t ino)
{
	if (announced_has(n->announced, parent, ino, false))
		return false;
	announced_note(n->announced, parent, ino, false);
	if (!send_message(n, what, path))
		announced_forget(n->announced, parent, ino);
	return true;
}

/* Whether a name came to be with the event of at_ms, however late that is handled. */
static bool is_new(int64_t since_ms, int64_t at_ms)
{
	return at_ms - since_ms < NOTIFIER_NEW_MS;
}

/* The names of one prompt, collected under the catalogue's lock, announced without it. */
struct names {
	int64_t at_ms; /* of the event */
	bool new_names; /* however old what they name */
	char *dir;
	uint64_t parent;
	struct {
		char *name;
		uint64_t ino;
		bool fresh, status;
	} items[16];
	int count;
	bool error; /* NAME.error is among them */
};

static bool collect_name(void *arg, const char *name, const struct derived *d)
{
	struct names *names = arg;

	if (names->count == ARRAY_SIZE(names->items))
		return false;
	names->items[names->count].name = xstrdup(name);
	names->items[names->count].ino = ino_of_derived(d);
	names->items[names->count].fresh = names->new_names || is_new(d->since_ms, names->at_ms);
	names->items[names->count].status = d->kind == DERIVED_STATUS;
	names->error |= d->kind == DERIVED_ERROR;
	names->count++;
	return true;
}

static void announce_prompt(struct notifier *n, int64_t node, int64_t at_ms, bool new_names)
{
	struct names names = {.at_ms = at_ms, .new_names = new_names};
	struct node file;

	if (tree_get(n->m->cat, node, &file) < 0 || file.parent == 0)
		return;
	names.dir = tree_path(n->m->cat, file.parent);
	names.parent = ino_make(INO_TREE, file.parent);
	derived_of(n->m->cat, node, collect_name, &names);
	if (!names.error) /* new when it comes again */
		announced_forget(n->announced, names.parent, ino_make(INO_ERROR, node));
	for (int i = 0; i < names.count; i++) {
		CLEANUP_FREE char *path =
			names.dir ? xasprintf("%s/%s", names.dir, names.items[i].name) : NULL;

		if (new_names)
			announced_forget(n->announced, names.parent, names.items[i].ino);
		const bool made = path && names.items[i].fresh &&
			announce(n, MESSAGE_CREATE, path, names.parent, names.items[i].ino);

		if (path && !made && names.items[i].status)
			send_message(n, MESSAGE_TOUCH, path);
		free(names.items[i].name);
	}
	free(names.dir);
}

static void announce_generation(struct notifier *n, int64_t generation, int64_t at_ms)
{
	struct generation g;

	if (generation_get(n->m->cat, generation, &g) < 0)
		return;
	/* mkdir would wait for a look-up that waits for the hub, and every other look-up for mkdir. */
	if (is_new(g.created_ms, at_ms) && !park_has_lookup(n->m->park)) {
		CLEANUP_FREE char *path = xasprintf("generations/%s", g.hub_id);
		announce(n, MESSAGE_FOLDER, path, STATIC_GENERATIONS,
			ino_make(INO_GENERATION, g.id));
	}
	generation_release(&g);
}

static void announce_picture(struct notifier *n, int64_t generation, int64_t image, int64_t at_ms)
{
	struct generation g;
	struct image i;
	char name[32];

	if (generation_get(n->m->cat, generation, &g) < 0)
		return;
	if (image_get(n->m->cat, image, &i) == 0) {
		image_name(&i, name);
		CLEANUP_FREE char *path = xasprintf("generations/%s/%s", g.hub_id, name);
		if (is_new(i.listed_ms, at_ms))
			announce(n, MESSAGE_CREATE, path, ino_make(INO_GENERATION, g.id),
				ino_make(INO_IMAGE, i.id));
		image_release(&i);
	}
	generation_release(&g);
}

/* Parked reads of NAME.wait look again. */
static void wake_node(struct notifier *n, int64_t node)
{
	const uint64_t before = park_next_token(n->m->park);
	struct parked *p;

	while ((p = park_take_of_node(n->m->park, node, before)) != NULL)
		wait_again(n->m, p);
}

static void handle(struct notifier *n, const struct engine_event *e, int64_t at_ms)
{
	if (e->generation && e->what != CHANGE_REQUEST)
		announce_generation(n, e->generation, at_ms);
	if (e->image && e->generation)
		announce_picture(n, e->generation, e->image, at_ms);
	if (e->node) {
		announce_prompt(n, e->node, at_ms, e->what == CHANGE_NAMES);
		wake_node(n, e->node);
	}
}

/* ---- the thread ---- */

static void answer_due(struct notifier *n)
{
	const uint64_t before = park_next_token(n->m->park);
	const int64_t now = clock_mono_ms();
	struct parked *p;

	while ((p = park_take_due(n->m->park, now, before)) != NULL) {
		if (p->kind == PARKED_WAIT) {
			wait_again(n->m, p);
			continue;
		}
		fuse_reply_err(p->req, ETIMEDOUT);
		parked_free(p);
	}
}

/* Under lock: until something is posted, or the next deadline. */
static void wait_for_work(struct notifier *n)
{
	pthread_mutex_unlock(&n->lock);
	const int64_t sweep = announced_sweep(n->announced);
	int64_t due = park_next_deadline(n->m->park);
	pthread_mutex_lock(&n->lock);

	if (sweep < due)
		due = sweep;
	if (n->n_waiting > 0)
		due = clock_mono_ms() + ROOM_MS;
	const struct timespec until = clock_timespec(due);
	while (list_empty(&n->events) && !n->poked && !n->stopping) {
		if (due == INT64_MAX)
			pthread_cond_wait(&n->wake, &n->lock);
		else if (pthread_cond_timedwait(&n->wake, &n->lock, &until) == ETIMEDOUT)
			break;
	}
	n->poked = false;
}

static void *notifier_main(void *arg)
{
	struct notifier *n = arg;

	/* So that the kernel knows the way to them before somebody waits. */
	send_message(n, MESSAGE_LOOK, "requests");
	send_message(n, MESSAGE_LOOK, "generations");
	nodes_warm(n->m);
	pthread_mutex_lock(&n->lock);
	while (!n->stopping) {
		wait_for_work(n);
		while (!list_empty(&n->events) && !n->stopping) {
			struct event *e = CONTAINER_OF(n->events.next, struct event, link);

			list_remove(&e->link);
			n->n_events--;
			pthread_mutex_unlock(&n->lock);
			handle(n, &e->what, e->at_ms);
			free(e);
			pthread_mutex_lock(&n->lock);
		}
		pthread_mutex_unlock(&n->lock);
		send_waiting(n);
		answer_due(n);
		pthread_mutex_lock(&n->lock);
	}
	pthread_mutex_unlock(&n->lock);
	return NULL;
}

int notifier_start(struct notifier *n, struct mount *m)
{
	n->m = m;
	const int rc = thread_start(&n->thread, "notifier", notifier_main, n);
	n->running = rc == 0;
	return rc;
}

void notifier_stop(struct notifier *n)
{
	atomic_store(&n->works, false);
	if (n->helper > 0)
		kill(n->helper, SIGKILL);
	if (!n->running)
		return;
	pthread_mutex_lock(&n->lock);
	n->stopping = true;
	pthread_cond_signal(&n->wake);
	pthread_mutex_unlock(&n->lock);
	pthread_join(n->thread, NULL);
	n->running = false;
}

void notifier_destroy(struct notifier *n)
{
	if (!n)
		return;
	notifier_stop(n);
	close(n->socket);
	if (n->helper > 0)
		waitpid(n->helper, NULL, 0);
	list_for_each_safe (pos, next, &n->events)
		free(CONTAINER_OF(pos, struct event, link));
	list_for_each_safe (pos, next, &n->waiting)
		message_end(n, CONTAINER_OF(pos, struct message_waiting, link));
	announced_destroy(n->announced);
	pthread_cond_destroy(&n->wake);
	pthread_mutex_destroy(&n->lock);
	free(n->mountpoint);
	free(n);
}
