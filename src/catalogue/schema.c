#include "catalogue/internal.h"

/*
 * Times are ns (node) or ms (everything else) since 1970. Names of states, holds and reasons are
 * short words, for people who look with sqlite3. A node without a parent is the root (id 1) or
 * unlinked while open.
 */
const char *const schema_migrations[] = {
	"CREATE TABLE setting(name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;"

	"CREATE TABLE node("
	" id INTEGER PRIMARY KEY AUTOINCREMENT,"
	" parent INTEGER REFERENCES node(id),"
	" name TEXT,"
	" mode INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL,"
	" target TEXT,"
	" atime INTEGER NOT NULL, mtime INTEGER NOT NULL, ctime INTEGER NOT NULL,"
	" pending INTEGER NOT NULL DEFAULT 0,"
	" request INTEGER NOT NULL DEFAULT 0,"
	" hidden INTEGER NOT NULL DEFAULT 0,"
	" draft_errno INTEGER, draft_text TEXT, draft_ms INTEGER,"
	" UNIQUE(parent, name)) STRICT;"
	"CREATE INDEX node_pending ON node(id) WHERE pending <> 0;"
	"CREATE INDEX node_unlinked ON node(id) WHERE parent IS NULL;"
	"CREATE TABLE xattr(node INTEGER NOT NULL REFERENCES node(id) ON DELETE CASCADE,"
	" name TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY(node, name)) STRICT, WITHOUT ROWID;"

	"CREATE TABLE request("
	" id INTEGER PRIMARY KEY AUTOINCREMENT,"
	" node INTEGER NOT NULL, path TEXT NOT NULL, hash BLOB NOT NULL, wanted TEXT NOT NULL,"
	" n_references INTEGER NOT NULL, key TEXT NOT NULL UNIQUE, retries INTEGER NOT NULL,"
	" state TEXT NOT NULL, hold TEXT NOT NULL, approved INTEGER NOT NULL,"
	" reason TEXT NOT NULL, text TEXT, generation INTEGER NOT NULL,"
	" price_low INTEGER NOT NULL, price_high INTEGER NOT NULL, charged INTEGER NOT NULL,"
	" balance_before INTEGER NOT NULL, balance_after INTEGER NOT NULL,"
	" attempts INTEGER NOT NULL, not_before INTEGER NOT NULL,"
	" created INTEGER NOT NULL, sent INTEGER NOT NULL, changed INTEGER NOT NULL) STRICT;"
	"CREATE INDEX request_node ON request(node);"
	"CREATE INDEX request_generation ON request(generation) WHERE generation <> 0;"
	"CREATE INDEX request_moving ON request(state, id)"
	" WHERE state IN ('queued', 'held', 'sending', 'running', 'unknown');"
	"CREATE TABLE request_count(state TEXT PRIMARY KEY, n INTEGER NOT NULL) STRICT;"
	"CREATE TRIGGER request_inserted AFTER INSERT ON request BEGIN"
	" INSERT INTO request_count VALUES(new.state, 1)"
	"  ON CONFLICT(state) DO UPDATE SET n = n + 1; END;"
	"CREATE TRIGGER request_moved AFTER UPDATE OF state ON request"
	" WHEN old.state <> new.state BEGIN"
	" UPDATE request_count SET n = n - 1 WHERE state = old.state;"
	" INSERT INTO request_count VALUES(new.state, 1)"
	"  ON CONFLICT(state) DO UPDATE SET n = n + 1; END;"
	"CREATE TABLE reference(request INTEGER NOT NULL REFERENCES request(id),"
	" number INTEGER NOT NULL, file TEXT NOT NULL, name TEXT NOT NULL, mime TEXT NOT NULL,"
	" size INTEGER NOT NULL, PRIMARY KEY(request, number)) STRICT, WITHOUT ROWID;"
	"CREATE TABLE charge(id INTEGER PRIMARY KEY, request INTEGER NOT NULL,"
	" at INTEGER NOT NULL, credits INTEGER NOT NULL, settled INTEGER NOT NULL) STRICT;"
	"CREATE INDEX charge_request ON charge(request);"
	"CREATE INDEX charge_at ON charge(at);"

	"CREATE TABLE generation("
	" id INTEGER PRIMARY KEY AUTOINCREMENT, hub_id TEXT NOT NULL UNIQUE,"
	" request INTEGER NOT NULL, status TEXT NOT NULL, phase INTEGER NOT NULL,"
	" model TEXT, prompt TEXT, poll_url TEXT, credits INTEGER NOT NULL,"
	" request_json TEXT, response_json TEXT, error TEXT,"
	" created INTEGER NOT NULL, changed INTEGER NOT NULL,"
	" hidden INTEGER NOT NULL DEFAULT 0, removed INTEGER NOT NULL DEFAULT 0) STRICT;"
	"CREATE TABLE image("
	" id INTEGER PRIMARY KEY AUTOINCREMENT,"
	" generation INTEGER NOT NULL REFERENCES generation(id), number INTEGER NOT NULL,"
	" hub_id TEXT, url TEXT, url_ms INTEGER NOT NULL, size INTEGER NOT NULL,"
	" type TEXT, width INTEGER NOT NULL, height INTEGER NOT NULL, sha256 BLOB,"
	" listed INTEGER NOT NULL, removed INTEGER NOT NULL DEFAULT 0,"
	" UNIQUE(generation, number)) STRICT;"
	"CREATE INDEX image_unlisted ON image(id) WHERE size < 0 AND removed = 0;"
	"CREATE TABLE log(id INTEGER PRIMARY KEY, request INTEGER NOT NULL,"
	" generation INTEGER NOT NULL, at INTEGER NOT NULL, text TEXT NOT NULL) STRICT;"
	"CREATE INDEX log_request ON log(request) WHERE request <> 0;"
	"CREATE INDEX log_generation ON log(generation) WHERE generation <> 0;"

	"INSERT INTO node(id, parent, name, mode, uid, gid, atime, mtime, ctime)"
	" VALUES(1, NULL, NULL, 0, 0, 0, 0, 0, 0);",

	/* What was submitted last under a name. */
	"CREATE INDEX request_path ON request(path);",

	/* A folder's links are counted at each stat, however many files are in it. */
	"CREATE INDEX node_folders ON node(parent) WHERE mode & 61440 = 16384;",

	/* All that listing and looking up needs, without the pages that the texts fill. */
	"CREATE INDEX generation_entry ON generation(id, hub_id, created, changed, phase)"
	" WHERE removed = 0;",

	/* Content of prompts that is promised to survive a power loss, until the spool is known to be on
	 * the disk: see catalogue/promise.c. */
	"CREATE TABLE promise(node INTEGER PRIMARY KEY REFERENCES node(id) ON DELETE CASCADE,"
	" mtime INTEGER NOT NULL, content BLOB NOT NULL) STRICT;",

	/* Which of the requests of a path was the last that its file had when it gave up the name: a turn
	 * begins with each file that does. */
	"ALTER TABLE request ADD COLUMN turn INTEGER NOT NULL DEFAULT 0;"
	"DROP INDEX request_path;"
	"CREATE INDEX request_path ON request(path, turn);",

	/* The sum of the charges of each quarter of an hour: the day's is asked for before every POST. */
	"CREATE TABLE charge_sum(quarter INTEGER PRIMARY KEY, credits INTEGER NOT NULL) STRICT;"
	"INSERT INTO charge_sum SELECT at / 900000, sum(credits) FROM charge GROUP BY 1;"
	"DROP INDEX charge_at;"
	"CREATE TRIGGER charge_inserted AFTER INSERT ON charge BEGIN"
	" INSERT INTO charge_sum VALUES(new.at / 900000, new.credits)"
	"  ON CONFLICT(quarter) DO UPDATE SET credits = credits + new.credits; END;"
	"CREATE TRIGGER charge_settled AFTER UPDATE OF credits ON charge BEGIN"
	" UPDATE charge_sum SET credits = credits + new.credits - old.credits"
	"  WHERE quarter = new.at / 900000; END;",
};
const int schema_count = (int)ARRAY_SIZE(schema_migrations);
