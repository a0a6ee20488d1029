#pragma once

#include <napi.h>

#include "attachment.h"

namespace rubato {

struct OpenOptions {
  std::string library;
  Places places;
  std::vector<DeviceSpec> devices;
  std::vector<std::shared_ptr<const ModelSpec>> models;  // by model number; null for one that is not for these devices
};

// Reads what src/devices/cuda/attachment.ts hands over. Answers the field that is not as it must be, or "".
std::string readOpenOptions(const Napi::Value& given, OpenOptions* to);
std::string readModelSpec(const Napi::Value& given, std::shared_ptr<const ModelSpec>* to);

}  // namespace rubato
