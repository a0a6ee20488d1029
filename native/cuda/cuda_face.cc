// The stream manager as JavaScript sees it: schedulers' attachments by number, in one table of the process, because the
// thread that made a scheduler opens and closes one and its dispatch thread feeds it. src/devices/cuda/native.ts has the
// types, src/devices/cuda/attachment.ts what is handed over.
#include "cuda_face.h"

#include <map>
#include <set>
#include <thread>

#include "attachment.h"
#include "read_options.h"

namespace rubato {
namespace {

struct Open {
  std::map<int, std::shared_ptr<Attachment>> attachments;
  std::mutex mutex;
  int last = 0;
};

// Never destroyed: devices' threads may run until the process ends.
Open& table() {
  static Open* const all = new Open;
  return *all;
}

std::shared_ptr<Attachment> find(int number) {
  const std::lock_guard<std::mutex> lock(table().mutex);
  const auto found = table().attachments.find(number);
  return found == table().attachments.end() ? nullptr : found->second;
}

// Lets go of one that is closed. One that is stuck stays for ever.
Attachment::End settle(int number, Attachment& attachment, std::string* stuck) {
  const Attachment::End end = attachment.settle(stuck);
  if (end != Attachment::End::kDone) return end;
  const std::lock_guard<std::mutex> lock(table().mutex);
  table().attachments.erase(number);
  return end;
}

// What an environment holds for the attachments that it opened: the memory that native threads look into must not be
// collected before they have let go of it.
struct Held {
  std::map<int, std::pair<Napi::ObjectReference, Napi::ObjectReference>> memory;
  std::set<int> givenUp;
};

constexpr double kCleanUpNs = 5e9;

// The environment ends, whatever is under way: waits until the devices have let go.
void closeAll(const Held& held) {
  for (const auto& [number, memory] : held.memory) {
    const std::shared_ptr<Attachment> attachment = find(number);
    if (attachment == nullptr) continue;
    attachment->close();
    const double untilNs = monotonicNs() + (held.givenUp.count(number) > 0 ? 0 : kCleanUpNs);
    std::string stuck;
    while (settle(number, *attachment, &stuck) == Attachment::End::kNotYet && monotonicNs() < untilNs) std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
}

int numberOf(const Napi::CallbackInfo& info) { return info[0].IsNumber() ? info[0].As<Napi::Number>().Int32Value() : 0; }

// cudaOpen(options) → number
Napi::Value CudaOpen(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  OpenOptions options;
  const std::string problem = readOpenOptions(info[0], &options);
  if (!problem.empty()) {
    Napi::TypeError::New(env, "cudaOpen(options): " + problem).ThrowAsJavaScriptException();
    return env.Undefined();
  }
  const std::shared_ptr<Attachment> attachment(new Attachment(std::move(options.places)));
  int number = 0;
  {
    const std::lock_guard<std::mutex> lock(table().mutex);
    number = table().last += 1;
    table().attachments[number] = attachment;
  }
  const Napi::Object given = info[0].As<Napi::Object>();
  auto& memory = env.GetInstanceData<Held>()->memory[number];
  memory.first = Napi::Persistent(given.Get("buffer").As<Napi::Object>());
  if (given.Get("arena").IsObject()) memory.second = Napi::Persistent(given.Get("arena").As<Napi::Object>());
  attachment->open(options.library, options.devices, options.models);
  return Napi::Number::New(env, number);
}

// cudaState(number) → 'opening' | 'ready' | 'closing' | 'closed', or { failure }: of the opening, or the call that is stuck after the end
Napi::Value CudaState(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const int number = numberOf(info);
  const std::shared_ptr<Attachment> attachment = find(number);
  if (attachment == nullptr) return Napi::String::New(env, "closed");
  std::string failure;
  switch (attachment->state(&failure)) {
    case Attachment::State::kOpening: return Napi::String::New(env, "opening");
    case Attachment::State::kReady: return Napi::String::New(env, "ready");
    case Attachment::State::kClosing: return Napi::String::New(env, "closing");
    case Attachment::State::kClosed: {
      const Attachment::End end = settle(number, *attachment, &failure);
      if (end == Attachment::End::kNotYet) return Napi::String::New(env, "closing");
      if (end == Attachment::End::kStuck) break;
      env.GetInstanceData<Held>()->memory.erase(number);
      return Napi::String::New(env, "closed");
    }
    case Attachment::State::kFailed: break;
  }
  Napi::Object result = Napi::Object::New(env);
  result.Set("failure", Napi::String::New(env, failure));
  return result;
}

// cudaTake(number) → batches taken
Napi::Value CudaTake(const Napi::CallbackInfo& info) {
  const std::shared_ptr<Attachment> attachment = find(numberOf(info));
  return Napi::Number::New(info.Env(), attachment == nullptr ? 0 : attachment->take());
}

// cudaRunning(number) → batches that were taken and have not ended
Napi::Value CudaRunning(const Napi::CallbackInfo& info) {
  const std::shared_ptr<Attachment> attachment = find(numberOf(info));
  return Napi::Number::New(info.Env(), attachment == nullptr ? 0 : attachment->running());
}

// cudaClose(number)
Napi::Value CudaClose(const Napi::CallbackInfo& info) {
  const std::shared_ptr<Attachment> attachment = find(numberOf(info));
  if (attachment != nullptr) attachment->close();
  return info.Env().Undefined();
}

// cudaGiveUp(number): nobody waits for the end any more
Napi::Value CudaGiveUp(const Napi::CallbackInfo& info) {
  info.Env().GetInstanceData<Held>()->givenUp.insert(numberOf(info));
  return info.Env().Undefined();
}

// cudaStage(number, model)
Napi::Value CudaStage(const Napi::CallbackInfo& info) {
  const std::shared_ptr<Attachment> attachment = find(numberOf(info));
  std::shared_ptr<const ModelSpec> spec;
  const std::string problem = readModelSpec(info[1], &spec);
  if (!problem.empty()) Napi::TypeError::New(info.Env(), "cudaStage(number, model): " + problem).ThrowAsJavaScriptException();
  else if (attachment != nullptr && spec != nullptr) attachment->stage(std::move(spec));
  return info.Env().Undefined();
}

// cudaSettleStaged(number, model: number, keep: boolean)
Napi::Value CudaSettleStaged(const Napi::CallbackInfo& info) {
  const std::shared_ptr<Attachment> attachment = find(numberOf(info));
  if (attachment != nullptr) attachment->settleStaged(info[1].ToNumber().Uint32Value(), info[2].ToBoolean());
  return info.Env().Undefined();
}

// cudaRemoveModel(number, model: number)
Napi::Value CudaRemoveModel(const Napi::CallbackInfo& info) {
  const std::shared_ptr<Attachment> attachment = find(numberOf(info));
  if (attachment != nullptr) attachment->removeModel(info[1].ToNumber().Uint32Value());
  return info.Env().Undefined();
}

// cudaAddDevice(number, gpu: number, row: number)
Napi::Value CudaAddDevice(const Napi::CallbackInfo& info) {
  const std::shared_ptr<Attachment> attachment = find(numberOf(info));
  const int32_t row = info[2].ToNumber().Int32Value();
  if (attachment == nullptr) return info.Env().Undefined();
  if (row < 0 || static_cast<uint32_t>(row) >= attachment->places().gpus) {
    Napi::RangeError::New(info.Env(), "cudaAddDevice(number, gpu, row): there is no such row").ThrowAsJavaScriptException();
    return info.Env().Undefined();
  }
  attachment->addDevice({info[1].ToNumber().Int32Value(), row});
  return info.Env().Undefined();
}

// cudaRemoveDevice(number, row: number)
Napi::Value CudaRemoveDevice(const Napi::CallbackInfo& info) {
  const std::shared_ptr<Attachment> attachment = find(numberOf(info));
  if (attachment != nullptr) attachment->removeDevice(info[1].ToNumber().Int32Value());
  return info.Env().Undefined();
}

// cudaChange(number) → null while the last change is under way, else { failure, model, field }
Napi::Value CudaChange(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const std::shared_ptr<Attachment> attachment = find(numberOf(info));
  Outcome outcome;
  if (attachment == nullptr || attachment->isChanging(&outcome)) return env.Null();
  Napi::Object result = Napi::Object::New(env);
  result.Set("failure", Napi::String::New(env, outcome.failure));
  result.Set("model", Napi::String::New(env, outcome.model));
  result.Set("field", Napi::String::New(env, outcome.field));
  return result;
}

// cudaFault(number, gpu) → { what, isLost } | null
Napi::Value CudaFault(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const std::shared_ptr<Attachment> attachment = find(numberOf(info));
  if (attachment == nullptr || !info[1].IsNumber()) return env.Null();
  bool isLost = false;
  const std::string what = attachment->fault(info[1].As<Napi::Number>().Int32Value(), &isLost);
  if (what.empty()) return env.Null();
  Napi::Object result = Napi::Object::New(env);
  result.Set("what", Napi::String::New(env, what));
  result.Set("isLost", Napi::Boolean::New(env, isLost));
  return result;
}

// cudaModels(number, gpu) → [{ model, module, decidedBy, kernelFrom: [{ bucket, in, out }] }]
Napi::Value CudaModels(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const std::shared_ptr<Attachment> attachment = find(numberOf(info));
  Napi::Array all = Napi::Array::New(env);
  if (attachment == nullptr || !info[1].IsNumber()) return all;
  const auto runs = [&](uint32_t from) -> Napi::Value { return from == kNeverByKernel ? env.Null() : Napi::Number::New(env, from); };
  for (const LoadedModel& model : attachment->models(info[1].As<Napi::Number>().Int32Value())) {
    Napi::Object one = Napi::Object::New(env);
    one.Set("model", model.name);
    one.Set("module", model.module);
    one.Set("decidedBy", model.decidedBy);
    Napi::Array buckets = Napi::Array::New(env);
    for (const KernelFrom& from : model.kernelFrom) {
      Napi::Object bucket = Napi::Object::New(env);
      bucket.Set("bucket", from.bucket);
      bucket.Set("in", runs(from.in));
      bucket.Set("out", runs(from.out));
      buckets.Set(buckets.Length(), bucket);
    }
    one.Set("kernelFrom", buckets);
    all.Set(all.Length(), one);
  }
  return all;
}

// cudaBusyNs(number, gpu) → ns
Napi::Value CudaBusyNs(const Napi::CallbackInfo& info) {
  const std::shared_ptr<Attachment> attachment = find(numberOf(info));
  return Napi::Number::New(info.Env(), attachment == nullptr ? 0 : attachment->busyNs(info[1].ToNumber().Int32Value()));
}

int32_t* wordOf(const Napi::Value& value) {
  if (!value.IsTypedArray()) return nullptr;
  const Napi::TypedArray array = value.As<Napi::TypedArray>();
  if (array.TypedArrayType() != napi_int32_array || array.ElementLength() < 1) return nullptr;
  return array.As<Napi::Int32Array>().Data();
}

// futexWait(word: Int32Array, seen: number, ms: number): sleeps while word[0] is `seen`
Napi::Value FutexWait(const Napi::CallbackInfo& info) {
  int32_t* word = wordOf(info[0]);
  if (word == nullptr || !info[1].IsNumber() || !info[2].IsNumber()) {
    Napi::TypeError::New(info.Env(), "futexWait(word, seen, ms): word must be an Int32Array, the others numbers").ThrowAsJavaScriptException();
    return info.Env().Undefined();
  }
  futexWait(word, info[1].As<Napi::Number>().Int32Value(), info[2].As<Napi::Number>().DoubleValue() * 1e6);
  return info.Env().Undefined();
}

// futexWake(word: Int32Array)
Napi::Value FutexWake(const Napi::CallbackInfo& info) {
  int32_t* word = wordOf(info[0]);
  if (word == nullptr) Napi::TypeError::New(info.Env(), "futexWake(word): word must be an Int32Array").ThrowAsJavaScriptException();
  else futexWake(word);
  return info.Env().Undefined();
}

}  // namespace

void exportCuda(Napi::Env env, Napi::Object exports) {
  Held* held = new Held;
  env.SetInstanceData(held);  // deleted after the hook, which was added later
  env.AddCleanupHook([held] { closeAll(*held); });
  exports.Set("cudaOpen", Napi::Function::New(env, CudaOpen, "cudaOpen"));
  exports.Set("cudaState", Napi::Function::New(env, CudaState, "cudaState"));
  exports.Set("cudaTake", Napi::Function::New(env, CudaTake, "cudaTake"));
  exports.Set("cudaRunning", Napi::Function::New(env, CudaRunning, "cudaRunning"));
  exports.Set("cudaClose", Napi::Function::New(env, CudaClose, "cudaClose"));
  exports.Set("cudaGiveUp", Napi::Function::New(env, CudaGiveUp, "cudaGiveUp"));
  exports.Set("cudaStage", Napi::Function::New(env, CudaStage, "cudaStage"));
  exports.Set("cudaSettleStaged", Napi::Function::New(env, CudaSettleStaged, "cudaSettleStaged"));
  exports.Set("cudaRemoveModel", Napi::Function::New(env, CudaRemoveModel, "cudaRemoveModel"));
  exports.Set("cudaAddDevice", Napi::Function::New(env, CudaAddDevice, "cudaAddDevice"));
  exports.Set("cudaRemoveDevice", Napi::Function::New(env, CudaRemoveDevice, "cudaRemoveDevice"));
  exports.Set("cudaChange", Napi::Function::New(env, CudaChange, "cudaChange"));
  exports.Set("cudaFault", Napi::Function::New(env, CudaFault, "cudaFault"));
  exports.Set("cudaModels", Napi::Function::New(env, CudaModels, "cudaModels"));
  exports.Set("cudaBusyNs", Napi::Function::New(env, CudaBusyNs, "cudaBusyNs"));
  exports.Set("futexWait", Napi::Function::New(env, FutexWait, "futexWait"));
  exports.Set("futexWake", Napi::Function::New(env, FutexWake, "futexWake"));
}

}  // namespace rubato
