#pragma once

#include <napi.h>

namespace rubato {

// Adds the functions of the stream manager to the addon's exports (Linux; elsewhere none).
void exportCuda(Napi::Env env, Napi::Object exports);

}  // namespace rubato
