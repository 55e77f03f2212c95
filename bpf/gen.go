package bpf

// The objects are committed; `make generate` rebuilds them and `make lint` compares (clang-19).
//
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I." -target bpfel -no-global-types -tags linux -type control -type flight -type stamp -type loss -type flight_flag -type tls_probe netfilter netfilter.bpf.c
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I." -target bpfel -no-global-types -tags linux tc tc.bpf.c
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I." -target bpfel -no-global-types -tags linux device device.bpf.c
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I." -target bpfel -no-global-types -tags linux socket socket.bpf.c
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I." -target bpfel -no-global-types -tags linux trouble trouble.bpf.c
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I." -target bpfel -no-global-types -tags linux -type tls_binary tls tls.bpf.c
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I." -target bpfel -no-global-types -tags linux -type go_process -type go_binary gohttp gohttp.bpf.c
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I." -target bpfel -no-global-types -tags linux -type outcome -type pod inject inject.bpf.c
