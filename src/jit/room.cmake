# Called from translated code while the vector registers are the guest's.
set_source_files_properties(${CMAKE_SOURCE_DIR}/src/jit/gate.c PROPERTIES COMPILE_OPTIONS -mgeneral-regs-only)
