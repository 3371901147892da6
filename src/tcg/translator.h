/*
 * What this room tells a translator, which stands above it: src/jit. Tcg.translator, NULL where
 * there is none; all of it is called on the vCPU's thread, or while that is stopped.
 */
#ifndef TANDEM_TCG_TRANSLATOR_H
#define TANDEM_TCG_TRANSLATOR_H

#include "tcg/run.h"

typedef struct Translator {
    void (*free)(Tcg *);
    /* A run() begins. joined: blocks may hand over to each other; counted: Tcg.counted. */
    void (*begin)(Tcg *, bool joined, bool counted);
    /* From b on, translated where hot. With a limit each block is run alone. */
    Next (*run)(CpuState *, Tcg *, Block *b, Exit *);

    /* ---- blocks (block.c) ---- */
    /* b's bytes have changed: nothing may lead to its code any more. */
    void (*block_dead)(Tcg *, Block *b);
    /* b has been found as it was: so are to be the blocks that its code goes on with, by
     * blocks_prove(). */
    void (*block_good)(Tcg *, const Block *b);
    /* Can i's immediate, so many bytes from so far into its block on, be written without i being
     * made anew? */
    bool (*soft_immediate)(const Insn *i, unsigned *at, unsigned *size);
    /* All code goes: the blocks themselves are dropped. */
    void (*flush)(Tcg *);
    /* The same, and memory goes back to the host. */
    void (*give_back)(Tcg *);
    /* No jump may go on unseen: blocks must prove themselves at their next look-up. */
    void (*distrust)(Tcg *);
    /* What b would be entered by in translated code: for the log. */
    const void *(*entry)(const Block *b);

    /* ---- pages (mmu.c) ---- */
    /* Where linear addresses led to is not known any more; all: that of global pages neither. */
    void (*pages_flush)(Tcg *, bool all);
    void (*page_flush)(Tcg *, gva_t lin);
    /* Stores to this page of the host's are to be noticed from here on. tagged: a page of the TLB
     * or of a program's may have led there, to write. */
    void (*page_watched)(Tcg *, const uint8_t *host, bool tagged);

    /* Handlers it has called since it was made. */
    uint64_t (*handlers)(const Tcg *);
} Translator;

#endif
