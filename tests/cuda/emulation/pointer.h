// The emulation's Pointer<T>: a pointer to memory that an operator's caller owns, which refuses to reach what the
// operator did not say that it reads or writes (Memory in run.h). What is done through it is checked besides, as with
// every other pointer (accesses.cpp).
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace ltd::emulation {

struct Range {
  uintptr_t begin;
  uintptr_t end;
};

// Where the last accesses went: most of them stay there.
extern Range last_read;
extern Range last_written;

// Finds the range and makes it the last one. Throws std::runtime_error if there is none.
void find_range(uintptr_t address, size_t bytes, bool writes);

[[noreturn]] void fail_alignment(size_t alignment);

inline void check_access(const volatile void* pointer, size_t bytes, size_t alignment, bool writes) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
  if (address % alignment != 0) fail_alignment(alignment);
  const Range& last = writes ? last_written : last_read;
  if (address < last.begin || address + bytes > last.end) find_range(address, bytes, writes);
}

}  // namespace ltd::emulation

namespace ltd {

template <typename T>
class Pointer {
 public:
  Pointer() = default;
  Pointer(std::nullptr_t) : raw_(nullptr) {}
  Pointer(T* raw) : raw_(raw) {}
  template <typename U>
    requires(!std::is_same_v<U, T> && std::is_same_v<const U, T>)
  Pointer(const Pointer<U>& other) : raw_(other.raw()) {}

  // The address, without a check.
  T* raw() const { return raw_; }

  T& operator*() const { return *checked(raw_); }
  T& operator[](int64_t i) const { return *checked(raw_ + i); }
  T* operator->() const { return checked(raw_); }

  Pointer& operator+=(int64_t n) { return raw_ += n, *this; }
  Pointer& operator-=(int64_t n) { return raw_ -= n, *this; }
  Pointer& operator++() { return *this += 1; }
  Pointer& operator--() { return *this -= 1; }
  Pointer operator++(int) { return Pointer(raw_++); }
  Pointer operator--(int) { return Pointer(raw_--); }

  explicit operator bool() const { return raw_ != nullptr; }

  friend Pointer operator+(Pointer pointer, int64_t n) { return pointer += n; }
  friend Pointer operator+(int64_t n, Pointer pointer) { return pointer += n; }
  friend Pointer operator-(Pointer pointer, int64_t n) { return pointer -= n; }
  friend int64_t operator-(Pointer a, Pointer b) { return a.raw_ - b.raw_; }
  friend bool operator==(Pointer a, Pointer b) { return a.raw_ == b.raw_; }
  friend auto operator<=>(Pointer a, Pointer b) { return a.raw_ <=> b.raw_; }

 private:
  static T* checked(T* address) {
    emulation::check_access(address, sizeof(T), alignof(T), false);
    return address;
  }

  T* raw_;
};

}  // namespace ltd
