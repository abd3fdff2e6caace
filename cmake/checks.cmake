# Registers the checks on the header itself (tests/scripts/*.sh) with CTest. A check whose compiler
# or tool is missing on this machine ends with status 77 and is listed as skipped.

function(awq_check name script)
    add_test(NAME ${name} COMMAND bash ${PROJECT_SOURCE_DIR}/tests/scripts/${script}.sh ${ARGN})
    set_tests_properties(${name} PROPERTIES SKIP_RETURN_CODE 77 LABELS check TIMEOUT 600)
endfunction()

foreach(compiler gcc clang)
    foreach(standard c99 c11 c17 c++11 c++14 c++17 c++20)
        awq_check(warnings/${compiler}/${standard} warnings ${compiler} ${standard})
    endforeach()
    foreach(script symbols shared config layouts portable stack)
        awq_check(${script}/${compiler} ${script} ${compiler})
    endforeach()
    awq_check(examples/${compiler} examples ${compiler})
endforeach()

foreach(kind static shared)
    awq_check(package/${kind} package ${kind})
endforeach()
awq_check(shared/windows shared x86_64-w64-mingw32-gcc)
awq_check(cuda cuda)
awq_check(embedded embedded)
awq_check(readme readme)
awq_check(style style)
awq_check(api_lines api_lines check)
awq_check(links links)
awq_check(demo demo)
awq_check(python python)
awq_check(firmware firmware)
awq_check(fuzz fuzz ${PROJECT_BINARY_DIR}/fuzz 20000)
awq_check(sanitize sanitize ${PROJECT_BINARY_DIR}/sanitize)
set_tests_properties(sanitize PROPERTIES COST 1000 TIMEOUT 1800)    # the longest one begins first
