module example.dev/toy-platform

go 1.19
