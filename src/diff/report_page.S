/* The page of `tandem diff report --html`: report.html, as it is. */
    .section .rodata
    .globl diff_report_page, diff_report_page_end
diff_report_page:
    .incbin REPORT_PAGE
diff_report_page_end:
    .byte 0
    .section .note.GNU-stack, "", @progbits
