// fakecuda_control.node: hands a test's commands to the fake driver of its process (control.cc).
// control(libraryPath, command) → the answer; throws for a command that is not understood.
#include <dlfcn.h>
#include <node_api.h>

#include <string>

namespace {

std::string text(napi_env env, napi_value value) {
  char buffer[1024];
  size_t length = 0;
  if (napi_get_value_string_utf8(env, value, buffer, sizeof buffer, &length) != napi_ok) return "";
  return std::string(buffer, length);
}

napi_value control(napi_env env, napi_callback_info info) {
  napi_value args[2];
  size_t count = 2;
  if (napi_get_cb_info(env, info, &count, args, nullptr, nullptr) != napi_ok || count < 2) return nullptr;
  const std::string command = text(env, args[1]);
  void* library = dlopen(text(env, args[0]).c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  void* symbol = library == nullptr ? nullptr : dlsym(library, "fakecuda_control");
  char answer[256] = "";
  if (symbol == nullptr) {
    napi_throw_error(env, nullptr, "this is no fake driver");
  } else if (reinterpret_cast<int (*)(const char*, char*, int)>(symbol)(command.c_str(), answer, sizeof answer) != 0) {
    napi_throw_error(env, nullptr, ("not understood: " + command).c_str());
  }
  napi_value result = nullptr;
  napi_create_string_utf8(env, answer, NAPI_AUTO_LENGTH, &result);
  return result;
}

}  // namespace

NAPI_MODULE_INIT() {
  napi_value function = nullptr;
  napi_create_function(env, "control", NAPI_AUTO_LENGTH, control, nullptr, &function);
  napi_set_named_property(env, exports, "control", function);
  return exports;
}
