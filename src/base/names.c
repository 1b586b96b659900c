#include "base/names.h"
#include <ctype.h>

enum { NAME_LONGEST = 64 };

/* How many bytes the well-formed UTF-8 sequence at p takes; 0 if it is none. The ranges are those of
 * Unicode's table 3-7. */
static size_t sequence(const unsigned char *p, size_t left)
{
	unsigned char low = 0x80, high = 0xBF;
	size_t n;

	if (p[0] < 0x80)
		return 1;
	if (p[0] >= 0xC2 && p[0] <= 0xDF)
		n = 2;
	else if (p[0] >= 0xE0 && p[0] <= 0xEF)
		n = 3;
	else if (p[0] >= 0xF0 && p[0] <= 0xF4)
		n = 4;
	else
		return 0;
	if (left < n)
		return 0;
	if (p[0] == 0xE0)
		low = 0xA0;
	else if (p[0] == 0xED)
		high = 0x9F;
	else if (p[0] == 0xF0)
		low = 0x90;
	else if (p[0] == 0xF4)
		high = 0x8F;
	if (p[1] < low || p[1] > high)
		return 0;
	for (size_t i = 2; i < n; i++)
		if (p[i] < 0x80 || p[i] > 0xBF)
			return 0;
	return n;
}

bool names_is_utf8(const void *bytes, size_t len)
{
	const unsigned char *p = bytes, *end = p + len;

	while (p < end) {
		const size_t n = sequence(p, (size_t)(end - p));

		if (n == 0)
			return false;
		p += n;
	}
	return true;
}

void names_make_utf8(char *text)
{
	size_t left = strlen(text);

	while (left > 0) {
		size_t n = sequence((unsigned char *)text, left);

		if (n == 0) {
			*text = '?';
			n = 1;
		}
		text += n;
		left -= n;
	}
}

size_t names_utf8_length(const char *text, size_t len)
{
	size_t count = 0;

	for (size_t i = 0; i < len; i++)
		count += ((unsigned char)text[i] & 0xC0) != 0x80;
	return count;
}

size_t names_utf8_cut(const char *text, size_t most)
{
	size_t n = strnlen(text, most + 1);

	if (n <= most)
		return n;
	for (n = most; n > 0 && ((unsigned char)text[n] & 0xC0) == 0x80; n--)
		;
	return n;
}

static bool is_id(const char *id, size_t least, size_t most)
{
	const size_t len = strnlen(id, most + 1);

	if (len < least || len > most)
		return false;
	for (size_t i = 0; i < len; i++)
		if (!isascii((unsigned char)id[i]) ||
			(!isalnum((unsigned char)id[i]) && id[i] != '_' && id[i] != '-'))
			return false;
	return true;
}

bool names_is_hub_id(const char *id)
{
	return is_id(id, 1, 128);
}

bool names_is_lookup_id(const char *id)
{
	return is_id(id, 8, 128);
}

bool names_has_suffix(const char *name, const char *suffix)
{
	const size_t len = strlen(name), end = strlen(suffix);

	return len > end && strcmp(name + len - end, suffix) == 0;
}

bool names_is_prompt(const char *name)
{
	return name[0] != '.' && names_has_suffix(name, ".prompt");
}

/* Edit distance with transpositions (optimal string alignment), case folded. */
static int distance(const char *a, const char *b)
{
	int rows[3][NAME_LONGEST + 1];
	const int n = (int)strlen(a), m = (int)strlen(b);

	if (n > NAME_LONGEST || m > NAME_LONGEST)
		return NAME_LONGEST;
	for (int j = 0; j <= m; j++)
		rows[0][j] = j;
	for (int i = 1; i <= n; i++) {
		int *row = rows[i % 3], *above = rows[(i + 2) % 3], *two = rows[(i + 1) % 3];

		row[0] = i;
		for (int j = 1; j <= m; j++) {
			const int x = tolower((unsigned char)a[i - 1]);
			const int y = tolower((unsigned char)b[j - 1]);
			int best = above[j - 1] + (x != y);

			if (above[j] + 1 < best)
				best = above[j] + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			if (i > 1 && j > 1 && x == tolower((unsigned char)b[j - 2]) &&
				y == tolower((unsigned char)a[i - 2]) && two[j - 2] + 1 < best)
				best = two[j - 2] + 1;
			row[j] = best;
		}
	}
	return rows[n % 3][m];
}

const char *names_nearest(const char *name, const char *const *candidates)
{
	const char *nearest = NULL;
	const size_t len = strlen(name);
	int least = (int)(len / 3) + 1;

	if (len > NAME_LONGEST)
		return NULL;
	for (; *candidates; candidates++) {
		const int d = distance(name, *candidates);

		/* Replaced altogether, it has nothing in common. */
		if ((size_t)d >= len && d > 0)
			continue;
		if (d < least || (d == least && !nearest)) {
			least = d;
			nearest = *candidates;
		}
	}
	return nearest;
}
