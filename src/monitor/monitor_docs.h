/* The monitor's commands for whoever writes documentation. */
#ifndef TANDEM_MONITOR_MONITOR_DOCS_H
#define TANDEM_MONITOR_MONITOR_DOCS_H

/* Calls fn for each command and each info topic: "switch kvm|tcg|interp [cpu]" and its help. */
void monitor_docs(void (*fn)(const char *usage, const char *help, void *opaque), void *opaque);

#endif
