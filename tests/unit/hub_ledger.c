#include "base/clock.h"
#include "hub/store.h"
#include "test.h"
#include <errno.h>
#include <stdio.h>

static char dir[] = "/tmp/ledger-test-XXXXXX";
static struct store *store;

static int setup(void **state)
{
	bool busy;

	(void)state;
	store = mkdtemp(dir) ? store_open(dir, 0, &busy, NULL) : NULL;
	return store ? account_add(store, "a", 10, "PRO", NULL) : -1;
}

static int teardown(void **state)
{
	char command[128];

	(void)state;
	store_close(store);
	snprintf(command, sizeof command, "rm -rf %s", dir);
	return system(command);
}

static int charge(struct db *db, void *credits)
{
	return ledger_charge(db, 1, *(int64_t *)credits, "g");
}

static int refund(struct db *db, void *credits)
{
	return ledger_refund(db, 1, *(int64_t *)credits, "g");
}

static int64_t balance(void)
{
	struct hub_account a;

	assert_int_equal(account_get(store, 1, &a), 0);
	const int64_t credits = a.balance;
	hub_account_release(&a);
	return credits;
}

static void charges_and_refunds_add_up(void **state)
{
	(void)state;
	assert_int_equal(store_run(store, charge, &(int64_t){11}), -EDQUOT);
	assert_int_equal(balance(), 10);
	assert_int_equal(store_run(store, charge, &(int64_t){8}), 0);
	assert_int_equal(balance(), 2);
	assert_int_equal(store_run(store, refund, &(int64_t){9}), -EINVAL);
	assert_int_equal(store_run(store, refund, &(int64_t){3}), 0);
	assert_int_equal(balance(), 5);
}

static int falsify(struct db *db, void *arg)
{
	(void)arg;
	return db_run(db, "UPDATE ledger SET credits = 1000", "");
}

static void the_ledger_is_immutable(void **state)
{
	(void)state;
	assert_true(store_run(store, falsify, NULL) < 0);
	assert_int_equal(balance(), 5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(charges_and_refunds_add_up),
		cmocka_unit_test(the_ledger_is_immutable),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
