// The JavaScript face of rubato's native part. Any number of workers may load it, each with its own exports; what they share
// are the devices of the process (cuda_face.cc). src/devices/cuda/native.ts has the same interface in types.

#include <napi.h>

#include <cmath>

#if defined(__linux__)
#include "cuda_face.h"
#endif
#include "driver_probe.h"
#include "timer_slack.h"

namespace {

// The kernel takes an unsigned long; a second is far beyond any use and keeps the conversion from double exact.
constexpr double kMaxTimerSlackNs = 1e9;

Napi::Value throwTypeError(const Napi::Env& env, const char* message) {
  Napi::TypeError::New(env, message).ThrowAsJavaScriptException();
  return env.Undefined();
}

Napi::Value textOrNull(const Napi::Env& env, const std::string& text) {
  if (text.empty()) return env.Null();
  return Napi::String::New(env, text);
}

Napi::Value devicesToJs(const Napi::Env& env, const std::vector<rubato::ProbedDevice>& devices) {
  Napi::Array list = Napi::Array::New(env, devices.size());
  for (size_t row = 0; row < devices.size(); row += 1) {
    Napi::Object device = Napi::Object::New(env);
    device.Set("index", Napi::Number::New(env, devices[row].index));
    device.Set("name", Napi::String::New(env, devices[row].name));
    device.Set("memoryBytes", Napi::Number::New(env, static_cast<double>(devices[row].memoryBytes)));
    device.Set("capability", Napi::String::New(env, devices[row].capability));
    list.Set(static_cast<uint32_t>(row), device);
  }
  return list;
}

// probeCuda(libraryPath?: string, limitMs?: number) → { available, reason, driverVersion, devices }
Napi::Value ProbeCuda(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Napi::Value path = info[0];
  const Napi::Value limit = info[1];
  if (!path.IsUndefined() && !path.IsString()) {
    return throwTypeError(env, "probeCuda(libraryPath, limitMs): the path must be a string");
  }
  if (!limit.IsUndefined() && !limit.IsNumber()) {
    return throwTypeError(env, "probeCuda(libraryPath, limitMs): limitMs must be a number");
  }
  const rubato::DriverProbe probe = rubato::probeDriver(
      path.IsUndefined() ? std::string(rubato::kDefaultDriverLibrary) : path.As<Napi::String>().Utf8Value(),
      1e6 * (limit.IsUndefined() ? rubato::kDefaultProbeLimitMs : limit.As<Napi::Number>().DoubleValue()));

  Napi::Object result = Napi::Object::New(env);
  result.Set("available", Napi::Boolean::New(env, probe.available));
  result.Set("reason", Napi::String::New(env, probe.reason));
  result.Set("driverVersion", textOrNull(env, probe.driverVersion));
  result.Set("devices", devicesToJs(env, probe.devices));
  return result;
}

// setTimerSlackNs(ns: number) → boolean
Napi::Value SetTimerSlackNs(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!info[0].IsNumber()) return throwTypeError(env, "setTimerSlackNs(ns): ns must be a number");
  const double ns = info[0].As<Napi::Number>().DoubleValue();
  if (!(ns >= 0 && ns <= kMaxTimerSlackNs) || ns != std::floor(ns)) {
    return throwTypeError(env, "setTimerSlackNs(ns): ns must be a whole number from 0 (the default slack) to 1e9");
  }
  return Napi::Boolean::New(env, rubato::setTimerSlackNs(static_cast<unsigned long>(ns)));
}

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  exports.Set("probeCuda", Napi::Function::New(env, ProbeCuda, "probeCuda"));
  exports.Set("setTimerSlackNs", Napi::Function::New(env, SetTimerSlackNs, "setTimerSlackNs"));
#if defined(__linux__)
  rubato::exportCuda(env, exports);
#endif
  return exports;
}

}  // namespace

NODE_API_MODULE(rubato_cuda, Init)
