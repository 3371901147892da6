target_link_libraries(monitor PUBLIC PkgConfig::CAPSTONE) # x /i
