/* What several processors share: scaling.py runs these in a guest with two. */
#include "bench.h"

#include <pthread.h>

enum { WORDS = 8192 };

typedef struct Part {
    unsigned scale;
    uint64_t seed, sum;
    uint64_t word[WORDS];
} Part;

/* Updates all over 64 KiB that nobody else has. */
static void *work(void *opaque)
{
    Part *p = opaque;
    for (unsigned n = 0; n < WORDS; n++)
        p->word[n] = n + p->seed;
    for (unsigned n = 0; n < p->scale * 5000; n++) {
        uint64_t r = rnd(&p->seed);
        p->word[r % WORDS] += r >> 7;
        p->sum = mix(p->sum, p->word[(r >> 32) % WORDS]);
    }
    return NULL;
}

static Part part[2];

static uint64_t halves(unsigned scale, int parallel)
{
    pthread_t other;
    for (unsigned k = 0; k < 2; k++)
        part[k] = (Part){.scale = scale, .seed = k + 1};
    if (!parallel)
        work(&part[1]);
    else if (pthread_create(&other, NULL, work, &part[1]))
        bench_die("no second thread");
    work(&part[0]);
    if (parallel)
        pthread_join(other, NULL);
    return mix(part[0].sum, part[1].sum);
}

uint64_t run_serial2(unsigned scale)
{
    return halves(scale, 0);
}

uint64_t run_parallel2(unsigned scale)
{
    return halves(scale, 1);
}

static struct {
    uint64_t count;
    pthread_mutex_t lock;
    uint64_t guarded;
    unsigned scale;
} shared = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void *contend(void *unused)
{
    for (unsigned n = 0; n < shared.scale * 500; n++) {
        __atomic_fetch_add(&shared.count, n, __ATOMIC_SEQ_CST);
        if (n % 16 == 0) {
            pthread_mutex_lock(&shared.lock);
            shared.guarded += n;
            pthread_mutex_unlock(&shared.lock);
        }
    }
    return unused;
}

/* Two threads on one counter, and on one lock. */
uint64_t run_contended2(unsigned scale)
{
    pthread_t other;
    shared.count = shared.guarded = 0;
    shared.scale = scale;
    if (pthread_create(&other, NULL, contend, NULL))
        bench_die("no second thread");
    contend(NULL);
    pthread_join(other, NULL);
    return mix(shared.count, shared.guarded);
}
