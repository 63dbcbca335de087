# SPDX-License-Identifier: Apache-2.0
#
# lamella_floor(NAME USES floor... LIBRARIES target...)
#
# Makes the library lamella_NAME of every source in the current folder, and the test program NAME_test of every *_test.cpp.
# Headers are included as "NAME/header.h". The include path of a floor holds that floor alone (a folder of one symbolic link),
# so that a floor can include only what it names under USES, and what those use.
function(lamella_floor name)
  cmake_parse_arguments(FLOOR "" "" "USES;LIBRARIES;TEST_LIBRARIES" ${ARGN})
  set(include_root ${CMAKE_BINARY_DIR}/include/${name})
  file(MAKE_DIRECTORY ${include_root})
  file(CREATE_LINK ${CMAKE_CURRENT_SOURCE_DIR} ${include_root}/${name} SYMBOLIC)

  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cpp)
  set(tests ${sources})
  list(FILTER sources EXCLUDE REGEX "(_test|/main)\\.cpp$")
  list(FILTER tests INCLUDE REGEX "_test\\.cpp$")

  if(sources)
    add_library(lamella_${name} STATIC ${sources})
    set(visibility PUBLIC)
  else()
    add_library(lamella_${name} INTERFACE)
    set(visibility INTERFACE)
  endif()
  target_include_directories(lamella_${name} ${visibility} ${include_root})
  target_link_libraries(lamella_${name} ${visibility} lamella_options ${FLOOR_LIBRARIES})
  foreach(floor ${FLOOR_USES})
    target_link_libraries(lamella_${name} ${visibility} lamella_${floor})
  endforeach()

  if(tests AND NOT LAMELLA_FUZZ)
    add_executable(${name}_test ${tests})
    target_link_libraries(${name}_test PRIVATE lamella_${name} GTest::gmock GTest::gtest_main ${FLOOR_TEST_LIBRARIES} lamella_test_options)
    include(GoogleTest)
    gtest_discover_tests(${name}_test TEST_PREFIX ${name}. DISCOVERY_MODE PRE_TEST PROPERTIES TIMEOUT 600)
  endif()
endfunction()
