# The headers, the library if there is one, find_package(awq) and pkg-config.
include(CMakePackageConfigHelpers)

set(config_dir ${CMAKE_INSTALL_LIBDIR}/cmake/awq)
set(targets awq)
set(AWQ_PC_LIBS "")
if(AWQ_BUILD_LIBRARY)
    list(APPEND targets awq_library)
    set(AWQ_PC_LIBS "-L\${libdir} -lawq")
endif()
if(AWQ_LIBM)
    string(APPEND AWQ_PC_LIBS " -lm")
endif()

install(FILES awq.h awq_simd.h awq_cuda.cuh DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(TARGETS ${targets} EXPORT awq
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
        RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(EXPORT awq NAMESPACE awq:: FILE awq-targets.cmake DESTINATION ${config_dir})

configure_package_config_file(cmake/awq-config.cmake.in awq-config.cmake
                              INSTALL_DESTINATION ${config_dir})
# Below 1.0 a minor version may change the API, so 0.1 does not satisfy a request for 0.2.
if(PROJECT_VERSION_MAJOR EQUAL 0)
    set(compatibility SameMinorVersion)
else()
    set(compatibility SameMajorVersion)
endif()
write_basic_package_version_file(awq-config-version.cmake COMPATIBILITY ${compatibility})
install(FILES ${PROJECT_BINARY_DIR}/awq-config.cmake ${PROJECT_BINARY_DIR}/awq-config-version.cmake
        DESTINATION ${config_dir})

# Relative to the .pc file, so that an installed tree may be moved.
file(RELATIVE_PATH AWQ_PC_PREFIX "${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig" "${CMAKE_INSTALL_PREFIX}")
string(REGEX REPLACE "/$" "" AWQ_PC_PREFIX "${AWQ_PC_PREFIX}")
configure_file(cmake/awq.pc.in awq.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/awq.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
