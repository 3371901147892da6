#include "cpu/writelog.h"

#include <glib.h>
#include <string.h>

void write_log_add(WriteLog *l, gpa_t gpa, const void *host, unsigned len)
{
    size_t room = (sizeof(WriteEntry) + len + 7) & ~(size_t)7;
    if (l->used + room > l->size) {
        l->size = MAX_OF(l->size * 2, l->used + room + 4096);
        l->data = g_realloc(l->data, l->size);
    }
    WriteEntry *e = (WriteEntry *)(void *)(l->data + l->used);
    *e = (WriteEntry){.gpa = gpa, .len = len, .room = (uint32_t)room};
    memcpy(e->old, host, len);
    l->used += room;
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
