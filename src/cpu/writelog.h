/*
 * WriteLog: what a software engine has written to guest RAM, with the bytes that were there before.
 *
 * While Vcpu.writes points to one, the engine notes each store before it makes it: instructions'
 * stores, accessed and dirty bits, what an event pushes. Whoever reads it knows where memory can
 * have changed, and can take the changes back. Owned by one thread, the vCPU's.
 */
#ifndef TANDEM_CPU_WRITELOG_H
#define TANDEM_CPU_WRITELOG_H

#include <stddef.h>
#include "base/types.h"

typedef struct WriteEntry {
    gpa_t gpa;
    uint16_t len;  /* bytes written; they lie in one page */
    uint16_t room; /* bytes from this entry to the next */
    bool paging;   /* accessed and dirty bits of a paging entry */
    uint8_t old[]; /* len bytes */
} WriteEntry;

typedef struct WriteLog {
    uint8_t *data;
    size_t used, size;
    void (*first)(void *opaque); /* NULL, or called before the first store, once */
    void *opaque;
} WriteLog;

/* [gpa, gpa + len), at host, is about to be written. Grows; ends the process without memory. */
WriteEntry *write_log_add(WriteLog *, gpa_t gpa, const void *host, unsigned len);
void write_log_clear(WriteLog *); /* forgets the entries, keeps the room */
void write_log_free(WriteLog *);

static inline void write_log_note(WriteLog *l, gpa_t gpa, const void *host, unsigned len)
{
    if (unlikely(l != NULL))
        write_log_add(l, gpa, host, len);
}

/* for (e = write_log_at(l, from); e; e = write_log_next(l, e)): from is an earlier value of used.
 */
static inline const WriteEntry *write_log_at(const WriteLog *l, size_t at)
{
    return at < l->used ? (const WriteEntry *)(const void *)(l->data + at) : NULL;
}
static inline const WriteEntry *write_log_next(const WriteLog *l, const WriteEntry *e)
{
    return write_log_at(l, (size_t)((const uint8_t *)e - l->data) + e->room);
}

#endif
