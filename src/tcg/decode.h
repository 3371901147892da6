/* Decoding for blocks: decode() (insn.h) with what it has found before. */
#ifndef TANDEM_TCG_DECODE_H
#define TANDEM_TCG_DECODE_H

#include "tcg/tcg.h"

/* The forms of instructions that one vCPU has met. */
typedef struct DecodeKnown DecodeKnown;

/* NULL: no memory. For g_free(). */
DecodeKnown *decode_known_new(void);

#define DECODE_ROOM 32u /* bytes that can be read, of which an instruction has 15 */

/* As decode() of 15 bytes. `features` are the same each time. */
DecodeResult decode_known(DecodeKnown *, Insn *out, const uint8_t bytes[DECODE_ROOM], unsigned mode,
                          const uint8_t features[]);

/* Numbers of the rows of an opcode. */
const uint16_t *decode_rows(unsigned map, unsigned opcode, unsigned *n);
bool decode_row_has_modrm(const OpRow *);
/* By map and opcode: some row has a ModRM byte. This and decode_rows() are there from
 * decode_rows_ready() on, which decode() calls. */
extern uint8_t decode_needs_modrm[MAP_N][256];
void decode_rows_ready(void);

#endif
