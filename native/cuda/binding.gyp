{
  "targets": [
    {
      "target_name": "rubato_cuda",
      "sources": ["addon.cc", "driver_probe.cc", "timer_slack.cc"],
      "include_dirs": [".", "<!(node -p \"require('node-addon-api').include_dir\")"],
      "defines": [
        "NAPI_VERSION=9",
        "NODE_ADDON_API_DISABLE_CPP_EXCEPTIONS",
        "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS"
      ],
      "cflags": ["-Wall", "-Wextra", "-fvisibility=hidden"],
      "conditions": [
        ["OS=='linux'", {
          "sources": ["attachment.cc", "copier.cc", "cuda_face.cc", "driver.cc", "futex.cc", "glibc_floor.cc", "gpu.cc", "gpu_batches.cc", "gpu_table.cc", "model.cc", "module.cc", "read_options.cc"],
          "cflags_cc": ["-include glibc_floor.h"], "libraries": ["-ldl", "-pthread"],
          # A thread that is stuck in the driver outlives the environment that loaded the addon.
          "ldflags": ["-Wl,-z,nodelete"]
        }],
        ["OS=='mac'", {
          "xcode_settings": {
            "CLANG_CXX_LANGUAGE_STANDARD": "c++17",
            "GCC_SYMBOLS_PRIVATE_EXTERN": "YES",
            "MACOSX_DEPLOYMENT_TARGET": "11.0"
          }
        }]
      ]
    }
  ]
}
