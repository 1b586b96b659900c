/*
 * The sketch provider: a landscape of its own for each prompt (sky, sun, hills in layers, all from a
 * hash of the prompt), with the prompt lettered on it. Reference pictures that are PNGs are pinned to
 * it like photographs.
 */
#include "base/files.h"
#include "base/names.h"
#include "base/picture.h"
#include "hub/provider.h"
#include <cairo.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <png.h>
#include <sodium.h>
#include <stdio.h>
#include <zlib.h>

enum { AUTO_EDGE = 1024, LINES_MAX = 12, LINE_BYTES = 512, REFERENCE_EDGE_MAX = 8192, SHOWN_MAX = 6,
	CHUNK_FRAME = 12, /* a PNG chunk's length, type and CRC */
	PNG_END = CHUNK_FRAME /* the last chunk has nothing else */ };

struct sketch {
	struct provider provider;
	size_t bytes; /* at least so many a picture */
};

/* A stream of numbers from a hash: the same for the same order on every machine. */
struct dice {
	unsigned char seed[randombytes_SEEDBYTES];
	unsigned char pool[256];
	size_t at;
};

static double roll(struct dice *d, double low, double high)
{
	if (d->at + 2 > sizeof d->pool)
		d->at = 0;
	const unsigned value = d->pool[d->at] | (unsigned)d->pool[d->at + 1] << 8;

	d->at += 2;
	return low + (high - low) * value / 65535.0;
}

static void dice_init(struct dice *d, const struct order *o, int width, int height, int index)
{
	CLEANUP_FREE char *text = xasprintf("%dx%d/%d/%s", width, height, index, o->prompt);

	crypto_generichash(d->seed, sizeof d->seed, (const unsigned char *)text, strlen(text), NULL,
		0);
	randombytes_buf_deterministic(d->pool, sizeof d->pool, d->seed);
	d->at = 0;
}

/* Hue in turns, saturation and value from 0 to 1. */
static void set_hsv(cairo_t *c, double h, double s, double v, double alpha)
{
	const double f = (h - floor(h)) * 6;
	const int sector = (int)f;
	const double p = v * (1 - s), q = v * (1 - s * (f - sector)),
		     t = v * (1 - s * (1 - (f - sector)));
	const double rgb[6][3] = {
		{v, t, p}, {q, v, p}, {p, v, t}, {p, q, v}, {t, p, v}, {v, p, q}};

	cairo_set_source_rgba(c, rgb[sector % 6][0], rgb[sector % 6][1], rgb[sector % 6][2], alpha);
}

static void add_stop(cairo_t *scratch, cairo_pattern_t *pattern, double at, double h, double s,
	double v)
{
	double r = 0, g = 0, b = 0, a = 1;

	set_hsv(scratch, h, s, v, 1);
	cairo_pattern_get_rgba(cairo_get_source(scratch), &r, &g, &b, &a);
	cairo_pattern_add_color_stop_rgb(pattern, at, r, g, b);
}

static void draw_sky(cairo_t *c, struct dice *d, double w, double h, double hue)
{
	cairo_pattern_t *sky = cairo_pattern_create_linear(0, 0, 0, h);
	const double x = roll(d, 0.15, 0.85) * w, y = roll(d, 0.15, 0.45) * h;
	const double radius = roll(d, 0.06, 0.13) * (w < h ? w : h);

	add_stop(c, sky, 0, hue, 0.55, 0.45);
	add_stop(c, sky, 0.55, hue + 0.08, 0.45, 0.85);
	add_stop(c, sky, 1, hue + 0.16, 0.35, 0.98);
	cairo_set_source(c, sky);
	cairo_paint(c);
	cairo_pattern_destroy(sky);
	for (int ring = 5; ring >= 0; ring--) {
		set_hsv(c, hue + 0.17, 0.25, 1, ring ? 0.10 : 0.95);
		cairo_arc(c, x, y, radius * (1 + ring * 0.45), 0, 2 * M_PI);
		cairo_fill(c);
	}
}

static void draw_hills(cairo_t *c, struct dice *d, double w, double h, double hue)
{
	const int layers = 5;

	for (int k = 0; k < layers; k++) {
		const double base = h * (0.48 + 0.11 * k), swing = h * roll(d, 0.03, 0.09);
		const double waves = roll(d, 1.2, 3.5), phase = roll(d, 0, 2 * M_PI);
		const double fine = roll(d, 4, 9), shift = roll(d, 0, 2 * M_PI);

		cairo_move_to(c, 0, h);
		for (int x = 0; x <= w + 8; x += 8)
			cairo_line_to(c, x,
				base + swing * sin(waves * x / w * 2 * M_PI + phase) +
					swing * 0.25 * sin(fine * x / w * 2 * M_PI + shift));
		cairo_line_to(c, w, h);
		cairo_close_path(c);
		set_hsv(c, hue + 0.52 + 0.02 * k, 0.30 + 0.09 * k, 0.72 - 0.13 * k, 0.92);
		cairo_fill(c);
	}
}

/* ---- lettering ---- */

/* Bytes of the UTF-8 character at p (the text is well formed). */
static size_t char_bytes(const char *p)
{
	const unsigned char b = (unsigned char)*p;

	return b < 0x80 ? 1 : b < 0xE0 ? 2 : b < 0xF0 ? 3 : 4;
}

static double text_width(cairo_t *c, const char *text)
{
	cairo_text_extents_t e;

	cairo_text_extents(c, text, &e);
	return e.x_advance;
}

/* Breaks at white space, and inside of a word that is too wide alone. Returns the lines' number. */
static int wrap(cairo_t *c, const char *text, double width, char lines[LINES_MAX][LINE_BYTES])
{
	int n = 0;
	size_t len = 0, space = 0;

	lines[0][0] = '\0';
	for (const char *p = text; *p && n < LINES_MAX; p += char_bytes(p)) {
		const size_t bytes = char_bytes(p);
		const bool white = *p == ' ' || *p == '\n' || *p == '\t' || *p == '\r';

		if (white && len == 0)
			continue;
		if (white)
			space = len;
		if (len + bytes >= LINE_BYTES)
			break;
		memcpy(lines[n] + len, white ? " " : p, bytes);
		lines[n][len += bytes] = '\0';
		if (white || text_width(c, lines[n]) <= width)
			continue;
		const size_t cut = space ? space : len - bytes;
		if (cut == 0 || n + 1 == LINES_MAX)
			break;
		const char *rest = lines[n] + cut + (space ? 1 : 0);
		memcpy(lines[n + 1], rest, strlen(rest) + 1);
		lines[n][cut] = '\0';
		len = strlen(lines[++n]);
		space = 0;
	}
	return len > 0 && n < LINES_MAX ? n + 1 : n;
}

static void letter(cairo_t *c, const char *text, double x, double y, double size)
{
	cairo_move_to(c, x + size * 0.06, y + size * 0.06);
	cairo_set_source_rgba(c, 0, 0, 0, 0.55);
	cairo_show_text(c, text);
	cairo_move_to(c, x, y);
	cairo_set_source_rgb(c, 1, 1, 1);
	cairo_show_text(c, text);
}

static void draw_prompt(cairo_t *c, const char *prompt, double w, double h)
{
	char(*lines)[LINE_BYTES] = xcalloc(LINES_MAX, LINE_BYTES);
	const double margin = w * 0.07;
	double size = h * 0.075;
	int n;

	cairo_select_font_face(
		c, "sans", CAIRO_FONT_SLANT_NORMAL, CAIRO_FONT_WEIGHT_BOLD);
	for (;;) {
		cairo_set_font_size(c, size);
		n = wrap(c, prompt, w - 2 * margin, lines);
		if (n * size * 1.3 < h * 0.4 || size < h * 0.025)
			break;
		size *= 0.8;
	}
	for (int i = 0; i < n; i++)
		letter(c, lines[i], margin, h * 0.90 - (n - 1 - i) * size * 1.3, size);
	free(lines);
}

static void draw_corner(cairo_t *c, double w, double h)
{
	static const char words[] = "sketch provider, no model";

	cairo_select_font_face(
		c, "sans", CAIRO_FONT_SLANT_NORMAL, CAIRO_FONT_WEIGHT_NORMAL);
	cairo_set_font_size(c, (w < h ? w : h) * 0.018);
	cairo_set_source_rgba(c, 1, 1, 1, 0.75);
	cairo_move_to(c, w - text_width(c, words) - w * 0.015, h * 0.985);
	cairo_show_text(c, words);
}

/* ---- references ---- */

/* A PNG of a size that is safe to decode, or NULL. */
static cairo_surface_t *load_reference(const char *path)
{
	unsigned char head[64];
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	const ssize_t n = fd < 0 ? -1 : files_pread_full(fd, head, sizeof head, 0);
	const struct picture_info info =
		n > 0 ? picture_probe(head, (size_t)n) : (struct picture_info){0};

	if (info.type != PICTURE_PNG || info.width == 0 || info.width > REFERENCE_EDGE_MAX ||
		info.height == 0 || info.height > REFERENCE_EDGE_MAX)
		return NULL;
	cairo_surface_t *s = cairo_image_surface_create_from_png(path);
	if (cairo_surface_status(s) == CAIRO_STATUS_SUCCESS)
		return s;
	cairo_surface_destroy(s);
	return NULL;
}

static void pin(cairo_t *c, cairo_surface_t *photo, double x, double y, double edge, double tilt)
{
	const double w = cairo_image_surface_get_width(photo);
	const double h = cairo_image_surface_get_height(photo);
	const double scale = edge / (w > h ? w : h), frame = edge * 0.05;

	cairo_save(c);
	cairo_translate(c, x + edge / 2, y + edge / 2);
	cairo_rotate(c, tilt);
	cairo_translate(c, -w * scale / 2, -h * scale / 2);
	cairo_set_source_rgb(c, 1, 1, 1);
	cairo_rectangle(c, -frame, -frame, w * scale + 2 * frame, h * scale + 2 * frame);
	cairo_fill(c);
	cairo_scale(c, scale, scale);
	cairo_set_source_surface(c, photo, 0, 0);
	cairo_paint(c);
	cairo_restore(c);
}

static void draw_references(cairo_t *c, struct dice *d, const struct provider_job *job, double w,
	double h)
{
	const double edge = (w < h ? w : h) * 0.2;
	int shown = 0;

	for (int i = 0; i < job->n_references && shown < SHOWN_MAX; i++) {
		cairo_surface_t *photo = load_reference(job->references[i]);

		if (!photo)
			continue;
		const int column = shown % 3, row = shown / 3;

		pin(c, photo, w * 0.06 + column * edge * 1.25, h * 0.06 + row * edge * 1.25, edge,
			roll(d, -0.12, 0.12));
		cairo_surface_destroy(photo);
		shown++;
	}
}

/* ---- the file ---- */

static int encode(cairo_surface_t *s, int width, int height, struct buf *out, char **error)
{
	png_image png = {.version = PNG_IMAGE_VERSION,
		.width = (png_uint_32)width,
		.height = (png_uint_32)height,
		.format = PNG_FORMAT_BGR,
		.flags = PNG_IMAGE_FLAG_FAST};
	const unsigned char *pixels = cairo_image_surface_get_data(s);
	const int stride = cairo_image_surface_get_stride(s);
	unsigned char *rows = xmalloc((size_t)width * height * 3);
	png_alloc_size_t size = PROVIDER_PICTURE_MAX;
	CLEANUP_FREE char *file = xmalloc(size);

	/* cairo's RGB24 is B, G, R, unused in memory on a little-endian machine. */
	for (int y = 0; y < height; y++)
		for (int x = 0; x < width; x++)
			memcpy(rows + ((size_t)y * width + x) * 3, pixels + (size_t)y * stride + x * 4,
				3);
	const int good = png_image_write_to_memory(&png, file, &size, 0, rows, 0, NULL);
	free(rows);
	if (!good)
		return fail(error, -EIO, "the picture could not be encoded");
	return buf_add(out, file, size) < 0 ? fail(error, -EFBIG, "the picture is too large") : 0;
}

static void put_be32(char *at, uint32_t value)
{
	for (int i = 3; i >= 0; i--, value >>= 8)
		at[i] = (char)value;
}

/* A chunk of noise before the PNG's last one, of a private type that readers pass over. */
static int fill_up(struct buf *png, size_t bytes, const unsigned char *seed)
{
	if (bytes < png->len + CHUNK_FRAME)
		return 0;
	const size_t noise = bytes - png->len - CHUNK_FRAME;
	CLEANUP_FREE char *tail = xmalloc(noise + CHUNK_FRAME + PNG_END);

	put_be32(tail, (uint32_t)noise);
	memcpy(tail + 4, "noIs", 4);
	randombytes_buf_deterministic(tail + 8, noise, seed);
	put_be32(tail + 8 + noise, (uint32_t)crc32(0, (const Bytef *)tail + 4, (uInt)noise + 4));
	memcpy(tail + CHUNK_FRAME + noise, png->data + png->len - PNG_END, PNG_END);
	png->len -= PNG_END;
	return buf_add(png, tail, noise + CHUNK_FRAME + PNG_END);
}

static int sketch_generate(struct provider *p, const struct provider_job *job, int index,
	struct buf *out, char **error)
{
	int width = AUTO_EDGE, height = AUTO_EDGE;
	struct dice d;
	order_pixels(job->order->size, &width, &height);
	cairo_surface_t *s = cairo_image_surface_create(CAIRO_FORMAT_RGB24, width, height);
	cairo_t *c = cairo_create(s);

	dice_init(&d, job->order, width, height, index);
	const double hue = roll(&d, 0, 1);
	draw_sky(c, &d, width, height, hue);
	draw_hills(c, &d, width, height, hue);
	draw_references(c, &d, job, width, height);
	draw_prompt(c, job->order->prompt, width, height);
	draw_corner(c, width, height);
	cairo_surface_flush(s);
	int rc = cairo_status(c) == CAIRO_STATUS_SUCCESS
		? encode(s, width, height, out, error)
		: fail(error, -EIO, "the picture could not be drawn");
	if (rc == 0 && fill_up(out, CONTAINER_OF(p, struct sketch, provider)->bytes, d.seed) < 0)
		rc = fail(error, -EFBIG, "the picture is too large");
	cairo_destroy(c);
	cairo_surface_destroy(s);
	return rc;
}

static void sketch_destroy(struct provider *p)
{
	free(CONTAINER_OF(p, struct sketch, provider));
}

struct provider *sketch_create(size_t bytes)
{
	struct sketch *s = xcalloc(1, sizeof *s);

	*s = (struct sketch){.provider = {.extension = "png", .generate = sketch_generate,
				     .destroy = sketch_destroy},
		.bytes = bytes};
	return &s->provider;
}
