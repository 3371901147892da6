# Its headers only: disasm.c loads the library when it is needed.
target_include_directories(cpu SYSTEM PUBLIC ${CAPSTONE_INCLUDE_DIRS})
target_link_libraries(cpu PUBLIC ${CMAKE_DL_LIBS})
