// What torch's C++ side asks of a GPU, for one whose tensors are host tensors in disguise: one
// device, one stream, events that have always happened. tests/pretended_gpu.py does the rest.
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace at {
struct CUDAHooks final : CUDAHooksInterface {  // torch looks it up by this name
  explicit CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  int getNumGPUs() const override { return 1; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  Allocator* getPinnedMemoryAllocator() const override { return c10::GetCPUAllocator(); }
};
REGISTER_CUDA_HOOKS(CUDAHooks);
}  // namespace at

namespace c10::impl {
const Device kGPU(DeviceType::CUDA, 0);

struct PretendedGuard final : NoOpDeviceGuardImpl<DeviceType::CUDA> {
  Device getDevice() const override { return kGPU; }
  Device exchangeDevice(Device) const override { return kGPU; }
  Stream getStream(Device) const noexcept override { return Stream(Stream::DEFAULT, kGPU); }
  Stream exchangeStream(Stream) const noexcept override { return Stream(Stream::DEFAULT, kGPU); }
  void record(void**, const Stream&, const DeviceIndex, const EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
};
C10_REGISTER_GUARD_IMPL(CUDA, PretendedGuard);
}  // namespace c10::impl
