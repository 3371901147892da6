/* Which executors there are. */
#include <string.h>

#include "base/log.h"
#include "diff/case.h"

const DiffEngine *const diff_engines[] = {
#define ENGINE(id) &diff_engine_##id,
#include "diff/engines.def"
    NULL,
};

const DiffEngine *diff_engine_find(const char *name, GError **err)
{
    GString *names = g_string_new(NULL);
    for (unsigned i = 0; diff_engines[i]; i++) {
        if (!strcmp(diff_engines[i]->name, name)) {
            g_string_free(names, TRUE);
            return diff_engines[i];
        }
        g_string_append_printf(names, "%s%s", i ? ", " : "", diff_engines[i]->name);
    }
    g_set_error(err, TANDEM_ERROR, ERR_USAGE, "no engine '%s'; the engines are: %s", name,
                names->str);
    g_string_free(names, TRUE);
    return NULL;
}

const char *case_known(const DiffCase *c, const DiffEngine *a, DiffExec *xa, const DiffOutcome *oa,
                       const DiffEngine *b, DiffExec *xb, const DiffOutcome *ob)
{
    const char *why = a->known ? a->known(xa, c, oa, ob) : NULL;
    return why || !b->known ? why : b->known(xb, c, ob, oa);
}
