/*
 * Windows: pages that follow each other in a program, and not in the guest's memory, side by side
 * in the host's address space.
 *
 * A slot has one host address for all of its pages (slot.c), and a kernel gives programs small
 * pages from wherever it has some. RAM is a memfd: a page of it can be seen at a second address. A
 * window is a place in the host's address space for WINDOW_PAGES of the guest's, aligned likewise;
 * a page that a slot misses often is mapped there, at the cost of a system call, and stays until
 * the guest has another page at that linear address and misses that one too.
 *
 * A page that is shown is accessed by its window alone: processors find lines of their first cache
 * by linear address, and two of the host's for one line push each other out (30 cycles and more for
 * each access). So the first-level TLB leads there, and with it all that is made from it.
 */
#include "jit/jit.h"

#include <sys/mman.h>

#define WINDOW_PAGES 512u
#define WINDOW_BYTES (WINDOW_PAGES * PAGE_SIZE)
/* All together: each is a mapping of the host's, which has room for 65,530 of a process; and a
 * place in the processor's TLB, where guest RAM takes one each 2 MiB. */
#define SHOWN_MAX 1024u

typedef struct JitWindow {
    gva_t lo;
    uint8_t *host;
    uint64_t add[WINDOW_PAGES]; /* of the first-level TLB; 0: nothing is shown here */
} JitWindow;

struct JitWindows {
    uint8_t *host; /* of all of them */
    unsigned n, shown;
    bool failed;
    JitWindow at[JIT_WINDOWS];
};

static JitWindow *window_at(const Jit *j, gva_t page)
{
    struct JitWindows *s = j->windows;
    for (unsigned k = 0; s && k < s->n; k++)
        if (page - s->at[k].lo < WINDOW_BYTES)
            return &s->at[k];
    return NULL;
}

static uint64_t add_of(const JitWindow *w)
{
    return (uintptr_t)w->host - w->lo + PAGE_BITS;
}

bool jit_window_at(const Jit *j, gva_t page)
{
    return window_at(j, page) != NULL;
}

uint64_t jit_window_add(const Jit *j, gva_t page, uint64_t add)
{
    const JitWindow *w = window_at(j, page);
    return w && w->add[(page - w->lo) >> PAGE_BITS] == add ? add_of(w) : add;
}

uint64_t jit_window_direct(const Jit *j, gva_t page, uint64_t add)
{
    const JitWindow *w = window_at(j, page);
    uint64_t direct = w ? w->add[(page - w->lo) >> PAGE_BITS] : 0;
    return direct && add == add_of(w) ? direct : add;
}

static JitWindow *window_new(Jit *j, gva_t page)
{
    if (!j->windows) {
        j->windows = g_new0(struct JitWindows, 1);
        void *p = mmap(NULL, (size_t)JIT_WINDOWS * WINDOW_BYTES, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED)
            j->windows->failed = true;
        else
            j->windows->host = p;
    }
    struct JitWindows *s = j->windows;
    if (s->failed || s->n == JIT_WINDOWS)
        return NULL;
    JitWindow *w = &s->at[s->n];
    w->lo = page & ~(gva_t)(WINDOW_BYTES - 1);
    w->host = s->host + (size_t)s->n * WINDOW_BYTES;
    s->n++;
    return w;
}

bool jit_window_show(Jit *j, gva_t page, uint64_t add)
{
    const MemMap *mem = j->t->v->vm->mem;
    const uint8_t *from = (const uint8_t *)(uintptr_t)(add - PAGE_BITS + page);
    const RamSlot *ram = NULL;
    for (unsigned k = 0; k < mem->n && !ram; k++)
        if (from >= mem->slot[k].host && from < mem->slot[k].host + mem->slot[k].size)
            ram = &mem->slot[k];
    if (!ram || ram->fd < 0 || ram->readonly)
        return false;
    JitWindow *w = window_at(j, page);
    if (!w)
        w = window_new(j, page);
    if (!w || j->windows->failed || j->windows->shown == SHOWN_MAX)
        return false;
    unsigned n = (unsigned)((page - w->lo) >> PAGE_BITS);
    void *to = w->host + (size_t)n * PAGE_SIZE;
    if (w->add[n]) /* another page was here, which another mode's entry may still have */
        jit_tlb_move(j, page, add_of(w), 0);
    w->add[n] = 0;
    off_t at = (off_t)(ram->fd_offset + (uint64_t)(from - ram->host));
    if (mmap(to, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_POPULATE, ram->fd,
             at) != to) {
        j->windows->failed = true; /* what is shown stays */
        return false;
    }
    j->windows->shown++; /* a second time too: so that they are seen to change often */
    w->add[n] = add;
    jit_tlb_move(j, page, add, add_of(w));
    return true;
}

void jit_windows_free(Jit *j)
{
    for (unsigned k = 0; j->windows && k < j->windows->n; k++) {
        const JitWindow *w = &j->windows->at[k];
        for (unsigned n = 0; n < WINDOW_PAGES; n++)
            if (w->add[n])
                jit_tlb_move(j, w->lo + n * PAGE_SIZE, add_of(w), w->add[n]);
    }
    if (j->windows && j->windows->host)
        munmap(j->windows->host, (size_t)JIT_WINDOWS * WINDOW_BYTES);
    j->hidden = true;
    g_free(j->windows);
    j->windows = NULL;
}

void jit_windows_trim(Jit *j)
{
    struct JitWindows *s = j->windows;
    if (s && (s->failed || s->shown > SHOWN_MAX / 2 || s->n == JIT_WINDOWS))
        jit_windows_free(j);
}
