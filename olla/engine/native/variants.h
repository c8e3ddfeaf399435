// Which variants of this library the machine that it runs on has the instructions for.
#pragma once
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>

// Compilers' own question has no word for it.
inline bool has_avx_vnni() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}
#elif defined(__linux__) && defined(__aarch64__)
#include <sys/auxv.h>
#endif

// Their names, the fastest first.
inline std::string variants() {
#if defined(__x86_64__)
    bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
    std::string names = has_avx512 ? "avx512 " : "";
    if (has_avx2) names += has_avx_vnni() ? "avxvnni avx2 " : "avx2 ";
    return names + "portable";
#elif defined(__linux__) && defined(__aarch64__)
    return getauxval(AT_HWCAP) & HWCAP_ASIMDDP ? "neon portable" : "portable";
#elif defined(__aarch64__)
    return "neon portable";
#else
    return "portable";
#endif
}
