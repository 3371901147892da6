#include "cpu/fresh.h"

#include <glib.h>
#include <string.h>

static uint64_t words(uint64_t pages)
{
    return (pages + 63) / 64;
}

void fresh_map_grow(FreshMap *m, gpa_t end)
{
    uint64_t pages = (end + BIT(FRESH_SHIFT) - 1) >> FRESH_SHIFT;
    if (pages <= m->pages)
        return;
    /* Of a large machine most is never touched. */
    uint64_t *known = g_malloc0(words(pages) * sizeof(*known));
    if (m->known)
        memcpy(known, m->known, words(m->pages) * sizeof(*known));
    g_free(m->known);
    m->known = known;
    m->pages = pages;
}

void fresh_map_free(FreshMap *m)
{
    g_free(m->known);
    *m = (FreshMap){.pages = 0};
}

static void forget(FreshMap *m, uint64_t page)
{
    if (page < m->pages)
        __atomic_fetch_and(&m->known[page / 64], ~BIT(page % 64), __ATOMIC_RELAXED);
}

void fresh_map_forget(FreshMap *m, gpa_t gpa, uint64_t size)
{
    uint64_t end = MIN_OF((gpa + size) >> FRESH_SHIFT, m->pages);
    for (uint64_t page = gpa >> FRESH_SHIFT; page < end; page++)
        forget(m, page);
}

void fresh_list(Fresh *f, uint64_t page)
{
    uint64_t bit = BIT(page % 64);
    if (__atomic_fetch_or(&f->map->known[page / 64], bit, __ATOMIC_RELAXED) & bit)
        return;
    if (f->n == FRESH_MAX)
        forget(f->map, f->page[f->next]);
    else
        f->n++;
    f->page[f->next] = page;
    f->next = (f->next + 1) % FRESH_MAX;
}

unsigned fresh_take(Fresh *f, gpa_t *page, unsigned most)
{
    unsigned n = 0;
    for (; n < most && f->n; f->n--) {
        f->next = (f->next + FRESH_MAX - 1) % FRESH_MAX;
        page[n++] = f->page[f->next] << FRESH_SHIFT;
    }
    return n;
}
