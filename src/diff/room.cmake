target_link_libraries(diff PUBLIC PkgConfig::CAPSTONE) # assembler beside the bytes of a case
target_link_libraries(diff PUBLIC PkgConfig::JSON)     # campaign files
