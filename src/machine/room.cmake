# The DSDT: ASL to a C array that acpi.c includes. -we: a warning of the compiler is an error.
set(dsdt ${CMAKE_BINARY_DIR}/gen/dsdt)
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/gen)
add_custom_command(
  OUTPUT ${dsdt}.hex
  COMMAND sh -c "'${IASL}' -vs -we -p '${dsdt}' -tc '${CMAKE_CURRENT_LIST_DIR}/dsdt.asl' >'${dsdt}.log' || { cat '${dsdt}.log'; exit 1; }"
  DEPENDS ${CMAKE_CURRENT_LIST_DIR}/dsdt.asl
  COMMENT "Compiling dsdt.asl"
  VERBATIM)
set_source_files_properties(${CMAKE_SOURCE_DIR}/src/machine/acpi.c PROPERTIES OBJECT_DEPENDS ${dsdt}.hex)
target_include_directories(machine PRIVATE ${CMAKE_BINARY_DIR}/gen)
