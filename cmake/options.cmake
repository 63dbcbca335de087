# SPDX-License-Identifier: Apache-2.0
# Compiler options that every target of the project shares.
add_library(lamella_options INTERFACE)
target_compile_options(lamella_options INTERFACE
  -Wall -Wextra -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual -Wimplicit-fallthrough
  -Wno-missing-field-initializers  # a designated initialiser leaves out what keeps its default
  -Werror=return-type -Werror=unused-result)
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  # libstdc++ 12 hides std::expected from a compiler that doesn't claim full concepts.
  target_compile_options(lamella_options INTERFACE -Wno-builtin-macro-redefined -Wno-macro-redefined -D__cpp_concepts=202002L)
endif()
if(LAMELLA_SANITIZE)
  target_compile_options(lamella_options INTERFACE -fsanitize=${LAMELLA_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(lamella_options INTERFACE -fsanitize=${LAMELLA_SANITIZE})
endif()
# For tests, linked last: these checks double the time to compile. The libraries have them; the tests around them do without.
add_library(lamella_test_options INTERFACE)
if(LAMELLA_SANITIZE MATCHES "undefined")
  target_compile_options(lamella_test_options INTERFACE -fno-sanitize=alignment,null,object-size)
endif()
if(LAMELLA_FUZZ)
  target_compile_options(lamella_options INTERFACE -fsanitize=fuzzer-no-link,address,undefined)
  target_link_options(lamella_options INTERFACE -fsanitize=address,undefined)
endif()
