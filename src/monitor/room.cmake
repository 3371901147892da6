target_link_libraries(monitor PUBLIC PkgConfig::JSON) # statediff
