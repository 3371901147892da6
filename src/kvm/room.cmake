target_link_libraries(kvm PUBLIC PkgConfig::CAPSTONE) # disassembly in messages
