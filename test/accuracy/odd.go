package main

import (
	"context"

	"github.com/meshwatch/meshwatch/test/result"
)

func (r *runner) measureOddities(_ context.Context, _ *result.Result) error { return nil }
