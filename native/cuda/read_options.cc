#include "read_options.h"

#include <algorithm>
#include <cstddef>

namespace rubato {
namespace {

// Reads fields; the first that is not what it must be is remembered, and later ones read as nothing.
struct Reader {
  std::string problem;

  void refuse(const std::string& field, const char* what) {
    if (problem.empty()) problem = field + " must be " + what;
  }
  Napi::Value get(const Napi::Value& from, const char* field) {
    if (from.IsObject()) return from.As<Napi::Object>().Get(field);
    refuse(field, "a field of an object");
    return from.Env().Undefined();
  }
  double number(const Napi::Value& from, const char* field) {
    const Napi::Value value = get(from, field);
    if (value.IsNumber()) return value.As<Napi::Number>().DoubleValue();
    refuse(field, "a number");
    return 0;
  }
  size_t size(const Napi::Value& from, const char* field) {
    const double value = number(from, field);
    if (value >= 0 && value <= 9007199254740991.0) return static_cast<size_t>(value);
    refuse(field, "a size");
    return 0;
  }
  uint32_t word(const Napi::Value& from, const char* field) { return static_cast<uint32_t>(std::min<size_t>(size(from, field), UINT32_MAX)); }
  std::string text(const Napi::Value& from, const char* field) {
    const Napi::Value value = get(from, field);
    if (value.IsString()) return value.As<Napi::String>().Utf8Value();
    refuse(field, "a string");
    return "";
  }
  // Views are good on shared buffers as well, bare shared buffers are not.
  struct Bytes {
    uint8_t* at;
    size_t count;
  };
  Bytes bytes(const Napi::Value& value, const char* field) {
    if (value.IsTypedArray() && value.As<Napi::TypedArray>().TypedArrayType() == napi_uint8_array) {
      Napi::Uint8Array array = value.As<Napi::Uint8Array>();
      return {array.Data(), array.ByteLength()};
    }
    refuse(field, "a Uint8Array");
    return {nullptr, 0};
  }
  template <typename Each>
  void list(const Napi::Value& from, const char* field, Each each) {
    const Napi::Value value = get(from, field);
    if (!value.IsArray()) return refuse(field, "an array");
    const Napi::Array array = value.As<Napi::Array>();
    for (uint32_t i = 0; i < array.Length() && problem.empty(); i += 1) each(array.Get(i));
  }
};

void readPlaces(Reader& read, const Napi::Value& given, Places* to) {
  const Reader::Bytes buffer = read.bytes(read.get(given, "buffer"), "buffer");
  to->buffer = buffer.at;
  to->bufferBytes = buffer.count;
  const Napi::Value value = read.get(given, "arena");
  const Reader::Bytes arena = value.IsNull() ? Reader::Bytes{nullptr, 0} : read.bytes(value, "arena");
  to->arena = arena.at;
  to->arenaBytes = arena.count;
  to->issues = read.size(given, "issues");
  to->issueCapacity = read.word(given, "issueCapacity");
  to->done = read.size(given, "done");
  to->doneCapacity = read.word(given, "doneCapacity");
  to->bell = read.size(given, "bell");
  to->cells = read.size(given, "cells");
  to->slots = read.word(given, "slots");
  to->gpus = read.word(given, "gpus");
  to->originNs = read.number(given, "originNs");
  to->graceNs = read.number(given, "graceNs");
  to->callLimitNs = read.number(given, "callLimitNs");
  read.list(given, "shards", [&](const Napi::Value& shard) {
    to->shards.push_back({read.size(shard, "batchSlots"), read.word(shard, "stride"), read.word(shard, "rows")});
  });
  const size_t ends[] = {to->issues + 2 * kLineBytes + to->issueCapacity * sizeof(IssueRecord), to->done + 2 * kLineBytes + to->doneCapacity * sizeof(DoneRecord),
                         to->bell + kLineBytes, to->cells + size_t{4} * to->slots};
  for (const size_t end : ends) if (end > to->bufferBytes) read.refuse("buffer", "as large as what lies in it");
  for (const auto& shard : to->shards) {
    if (shard.batchSlots + size_t{4} * shard.stride * shard.rows > to->bufferBytes) read.refuse("shards", "within the buffer");
  }
}

// The fields of the records in the order and at the places of the structs in lanes.h.
void checkLayout(Reader& read, const Napi::Value& given) {
  const auto expect = [&](const char* name, std::vector<size_t> expected) {
    std::vector<size_t> got;
    read.list(given, name, [&](const Napi::Value& at) { got.push_back(at.IsNumber() ? static_cast<size_t>(at.As<Napi::Number>().Int64Value()) : SIZE_MAX); });
    if (got != expected) read.refuse(name, "laid out as the addon was built for; run npm run build");
  };
  expect("issueLayout", {offsetof(IssueRecord, gpu), offsetof(IssueRecord, shard), offsetof(IssueRecord, row), offsetof(IssueRecord, model), offsetof(IssueRecord, number),
                         offsetof(IssueRecord, size), offsetof(IssueRecord, readyNs), offsetof(IssueRecord, lengthNs), offsetof(IssueRecord, grantedNs), sizeof(IssueRecord)});
  expect("doneLayout", {offsetof(DoneRecord, gpu), offsetof(DoneRecord, shard), offsetof(DoneRecord, row), offsetof(DoneRecord, number), offsetof(DoneRecord, model), offsetof(DoneRecord, status),
                        offsetof(DoneRecord, startNs), offsetof(DoneRecord, endNs), offsetof(DoneRecord, controlNs), sizeof(DoneRecord)});
}

LaunchSpec readLaunch(Reader& read, const Napi::Value& given) {
  LaunchSpec launch{};
  launch.kernel = read.text(given, "kernel");
  launch.sharedBytes = read.word(given, "sharedBytes");
  for (const char* field : {"grid", "block"}) {
    unsigned* to = field[0] == 'g' ? launch.grid : launch.block;
    size_t count = 0;
    read.list(given, field, [&](const Napi::Value& value) {
      if (count < 3 && value.IsNumber()) to[count] = value.As<Napi::Number>().Uint32Value();
      count += 1;
    });
    if (count != 3) read.refuse(field, "three numbers");
  }
  read.list(given, "args", [&](const Napi::Value& arg) {
    const uint32_t kind = read.word(arg, "kind");
    if (kind > ArgSpec::kFloat) read.refuse("kind", "a kind of argument");
    launch.args.push_back({static_cast<ArgSpec::Kind>(kind), read.number(arg, "value")});
  });
  return launch;
}

std::vector<ModuleImage> readModules(Reader& read, const Napi::Value& from, const char* field) {
  std::vector<ModuleImage> modules;
  read.list(from, field, [&](const Napi::Value& module) {
    const auto [at, bytes] = read.bytes(read.get(module, "image"), "image");
    modules.push_back({read.text(module, "file"), static_cast<int>(read.word(module, "chip")), std::string(reinterpret_cast<const char*>(at), bytes)});
  });
  return modules;
}

std::shared_ptr<const ModelSpec> readModel(Reader& read, const Napi::Value& given) {
  if (given.IsNull()) return nullptr;
  const std::shared_ptr<ModelSpec> model(new ModelSpec);
  model->name = read.text(given, "name");
  model->modules = readModules(read, given, "modules");
  model->copyModules = readModules(read, given, "copyModules");
  const uint32_t copies = read.word(given, "copies");
  if (copies > static_cast<uint32_t>(Copies::kCopy)) read.refuse("copies", "a way to copy");
  model->copies = static_cast<Copies>(copies);
  if (model->modules.empty()) read.refuse("modules", "one at least");
  if (model->copyModules.empty() && model->copies != Copies::kCopy) read.refuse("copyModules", "one at least");
  model->cellBytes = read.size(given, "cellBytes");
  read.list(given, "inputs", [&](const Napi::Value& tensor) { model->inputs.push_back({read.size(tensor, "cellOffset"), read.size(tensor, "bytes")}); });
  read.list(given, "outputs", [&](const Napi::Value& tensor) { model->outputs.push_back({read.size(tensor, "cellOffset"), read.size(tensor, "bytes")}); });
  read.list(given, "scratch", [&](const Napi::Value& bytes) { model->scratchBytes.push_back(bytes.IsNumber() ? static_cast<size_t>(bytes.As<Napi::Number>().Int64Value()) : 0); });
  read.list(given, "weights", [&](const Napi::Value& value) {
    const auto [at, bytes] = read.bytes(value, "weights");
    model->weights.emplace_back(reinterpret_cast<const char*>(at), bytes);
  });
  read.list(given, "buckets", [&](const Napi::Value& value) {
    BucketSpec bucket{read.word(value, "size"), {}};
    read.list(value, "launches", [&](const Napi::Value& launch) { bucket.launches.push_back(readLaunch(read, launch)); });
    model->buckets.push_back(std::move(bucket));
  });
  if (model->buckets.empty()) read.refuse("buckets", "one at least");
  // An argument that names a buffer must name one that there is.
  const size_t counts[] = {model->inputs.size(), model->outputs.size(), model->scratchBytes.size(), model->weights.size()};
  for (const BucketSpec& bucket : model->buckets) {
    for (const LaunchSpec& launch : bucket.launches) {
      for (const ArgSpec& arg : launch.args) {
        if (arg.kind <= ArgSpec::kWeight && !(arg.value >= 0 && arg.value < static_cast<double>(counts[arg.kind]))) read.refuse("args", "buffers that there are");
      }
    }
  }
  return model;
}

}  // namespace

std::string readOpenOptions(const Napi::Value& given, OpenOptions* to) {
  Reader read;
  to->library = read.text(given, "library");
  readPlaces(read, given, &to->places);
  checkLayout(read, given);
  read.list(given, "devices", [&](const Napi::Value& device) {
    to->devices.push_back({static_cast<int>(read.word(device, "gpu")), static_cast<int>(read.word(device, "row"))});
    if (to->devices.back().row < 0 || static_cast<uint32_t>(to->devices.back().row) >= to->places.gpus) read.refuse("row", "one that there is");
  });
  read.list(given, "models", [&](const Napi::Value& model) { to->models.push_back(readModel(read, model)); });
  return read.problem;
}

std::string readModelSpec(const Napi::Value& given, std::shared_ptr<const ModelSpec>* to) {
  Reader read;
  *to = readModel(read, given);
  return read.problem;
}

}  // namespace rubato
