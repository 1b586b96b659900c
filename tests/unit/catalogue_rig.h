/* A catalogue in a folder of its own, for a group of tests: cmocka_run_group_tests(tests, setup,
 * teardown). */
#ifndef UNIT_CATALOGUE_RIG_H
#define UNIT_CATALOGUE_RIG_H

#include "catalogue/catalogue.h"
#include "test.h"
#include <stdio.h>

static char dir[] = "/tmp/catalogue-test-XXXXXX";
static struct catalogue *cat;

static inline int setup(void **state)
{
	(void)state;
	cat = mkdtemp(dir) ? catalogue_open(dir, NULL, NULL) : NULL;
	return cat ? 0 : -1;
}

static inline int teardown(void **state)
{
	char command[128];

	(void)state;
	catalogue_close(cat);
	snprintf(command, sizeof command, "rm -rf %s", dir);
	return system(command);
}

#endif
