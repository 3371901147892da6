/* `tandem diff report`: report.c writes text, report_html.c the page. */
#ifndef TANDEM_DIFF_REPORT_H
#define TANDEM_DIFF_REPORT_H

#include "diff/results_data.h"

/* The campaign as one HTML page without anything outside it. All that comes from the file is
 * escaped. */
void report_html(const ResultsData *, GString *out);

/* ---- for tests ---- */
/* Text inside an element or a quoted attribute. */
void html_quote(GString *out, const char *s);

#endif
