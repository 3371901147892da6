#include "jit/perf.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include "base/log.h"

bool perf_on;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static FILE *map, *dump;
static void *marker = MAP_FAILED; /* perf sees this mapping of the dump, and so finds it */
static uint64_t next_index;

/* The jitdump format: tools/perf/Documentation/jitdump-specification.txt of the Linux sources. */
typedef struct DumpHeader {
    uint32_t magic, version, total_size, elf_mach, pad1, pid;
    uint64_t timestamp, flags;
} DumpHeader;
#define DUMP_MAGIC   0x4a695444u /* "JiTD" */
#define DUMP_VERSION 1u

typedef struct DumpRecord {
    uint32_t id, total_size;
    uint64_t timestamp;
} DumpRecord;
enum { JIT_CODE_LOAD = 0, JIT_CODE_CLOSE = 3 };

typedef struct DumpLoad {
    DumpRecord head;
    uint32_t pid, tid;
    uint64_t vma, code_addr, code_size, code_index;
    /* then the name with its 0, then the code */
} DumpLoad;
#define MARKER_BYTES 4096u

static uint64_t now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* A new file of that name; an old one of ours goes, and nobody's link is followed. */
static FILE *make(const char *path, int access, const char *option, GError **err)
{
    int fd = open(path, access | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "w");
    if (!f) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE, "-%s: %s: %s", option, path, g_strerror(errno));
        if (fd >= 0)
            close(fd);
    }
    return f;
}

bool perf_map_begin(GError **err)
{
    g_autofree char *path = g_strdup_printf("/tmp/perf-%d.map", (int)getpid());
    map = make(path, O_WRONLY, "perfmap", err);
    if (map)
        setvbuf(map, NULL, _IOLBF, 0); /* perf top reads along */
    perf_on |= map != NULL;
    return map != NULL;
}

bool perf_dump_begin(GError **err)
{
    g_autofree char *path = g_strdup_printf("jit-%d.dump", (int)getpid());
    dump = make(path, O_RDWR, "jitdump", err);
    if (!dump)
        return false;
    DumpHeader h = {.magic = DUMP_MAGIC,
                    .version = DUMP_VERSION,
                    .total_size = sizeof(h),
                    .elf_mach = EM_X86_64,
                    .pid = (uint32_t)getpid(),
                    .timestamp = now()};
    bool written = fwrite(&h, sizeof(h), 1, dump) == 1 && fflush(dump) == 0;
    if (written)
        marker = mmap(NULL, MARKER_BYTES, PROT_READ | PROT_EXEC, MAP_PRIVATE, fileno(dump), 0);
    if (!written || marker == MAP_FAILED) {
        g_set_error(err, TANDEM_ERROR, ERR_FAILED, "-jitdump: %s: %s", path, g_strerror(errno));
        fclose(dump);
        dump = NULL;
        return false;
    }
    perf_on = true;
    return true;
}

void perf_end(void)
{
    pthread_mutex_lock(&lock);
    perf_on = false;
    if (map)
        fclose(map);
    if (dump) {
        DumpRecord r = {.id = JIT_CODE_CLOSE, .total_size = sizeof(r), .timestamp = now()};
        fwrite(&r, sizeof(r), 1, dump);
        fclose(dump);
        munmap(marker, MARKER_BYTES);
        marker = MAP_FAILED;
    }
    map = dump = NULL;
    pthread_mutex_unlock(&lock);
}

void perf_code(const uint8_t *start, const uint8_t *bytes, size_t size, const char *name)
{
    pthread_mutex_lock(&lock);
    if (map)
        fprintf(map, "%" G_GINT64_MODIFIER "x %zx %s\n", (guint64)(uintptr_t)start, size, name);
    if (dump) {
        size_t name_size = strlen(name) + 1;
        DumpLoad l = {.head = {.id = JIT_CODE_LOAD,
                               .total_size = (uint32_t)(sizeof(l) + name_size + size),
                               .timestamp = now()},
                      .pid = (uint32_t)getpid(),
                      .tid = (uint32_t)gettid(),
                      .vma = (uintptr_t)start,
                      .code_addr = (uintptr_t)start,
                      .code_size = size,
                      .code_index = next_index++};
        fwrite(&l, sizeof(l), 1, dump);
        fwrite(name, name_size, 1, dump);
        fwrite(bytes, size, 1, dump);
    }
    pthread_mutex_unlock(&lock);
}
