# Man page and bash completion come out of the program itself, which has the option table.
set(docs ${CMAKE_BINARY_DIR}/docs)
file(MAKE_DIRECTORY ${docs})
add_custom_command(
  OUTPUT ${docs}/tandem.1 ${docs}/tandem.bash
  COMMAND tandem -help=man > ${docs}/tandem.1
  COMMAND tandem -help=bash > ${docs}/tandem.bash
  DEPENDS tandem
  COMMENT "Writing tandem.1 and bash completion"
  VERBATIM)
add_custom_target(option_docs ALL DEPENDS ${docs}/tandem.1 ${docs}/tandem.bash)

include(GNUInstallDirs)
install(PROGRAMS $<TARGET_FILE:tandem> DESTINATION ${CMAKE_INSTALL_BINDIR})
install(FILES ${docs}/tandem.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
install(FILES ${docs}/tandem.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions RENAME tandem)
