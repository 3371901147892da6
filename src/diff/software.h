/* The software engines' executor from inside: what `bench rows` times code in. */
#ifndef TANDEM_DIFF_SOFTWARE_H
#define TANDEM_DIFF_SOFTWARE_H

#include "diff/engines.h"

/* A vCPU in this engine, with the memory of case.h and no devices. Of one thread. */
DiffExec *software_open(const Engine *, GError **err);
void software_close(DiffExec *);
Vcpu *software_vcpu(DiffExec *);
uint8_t *software_at(const DiffExec *, uint64_t linear);
/* State, memory and code of the case, as before it is run. */
void software_prepare(DiffExec *, const DiffCase *);

#endif
