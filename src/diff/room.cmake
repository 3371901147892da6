target_link_libraries(diff PUBLIC PkgConfig::JSON)     # campaign files
if(TANDEM_ZYDIS AND ZYDIS_INCLUDE AND ZYDIS_LIBRARY)
  target_compile_definitions(diff PUBLIC TANDEM_ZYDIS=1)
  target_include_directories(diff SYSTEM PRIVATE ${ZYDIS_INCLUDE})
  target_link_libraries(diff PUBLIC ${ZYDIS_LIBRARY})
endif()
set_source_files_properties(${CMAKE_SOURCE_DIR}/src/diff/report_page.S PROPERTIES
  COMPILE_DEFINITIONS "REPORT_PAGE=\"${CMAKE_SOURCE_DIR}/src/diff/report.html\""
  OBJECT_DEPENDS ${CMAKE_SOURCE_DIR}/src/diff/report.html)
