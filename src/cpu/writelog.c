#include "cpu/writelog.h"

#include <glib.h>
#include <string.h>

WriteEntry *write_log_add(WriteLog *l, gpa_t gpa, const void *host, unsigned len)
{
    if (unlikely(l->first != NULL)) {
        void (*first)(void *) = l->first;
        l->first = NULL;
        first(l->opaque);
    }
    size_t room = (offsetof(WriteEntry, old) + len + 7) & ~(size_t)7;
    if (l->used + room > l->size) {
        l->size = MAX_OF(l->size * 2, l->used + room + 4096);
        l->data = g_realloc(l->data, l->size);
    }
    WriteEntry *e = (WriteEntry *)(void *)(l->data + l->used);
    *e = (WriteEntry){.gpa = gpa, .len = (uint16_t)len, .room = (uint16_t)room};
    memcpy(e->old, host, len);
    l->used += room;
    return e;
}

void write_log_clear(WriteLog *l)
{
    l->used = 0;
}

void write_log_free(WriteLog *l)
{
    g_free(l->data);
    *l = (WriteLog){0};
}
