package main

import (
	"io"

	"github.com/klauspost/compress/zstd"
)

// largestWindow is the window of the frames in a bundle; zstd's own programs refuse more unless told (zstd(1), --long).
const largestWindow = 128 << 20

// unzstd decompresses what is read, which must end where a frame ends.
func unzstd(in io.Reader, out io.Writer) error {
	options := []zstd.DOption{
		zstd.WithDecoderMaxWindow(largestWindow),
		zstd.WithDecoderLowmem(true),
		zstd.WithDecoderConcurrency(1),
	}
	decoder, err := zstd.NewReader(in, options...)
	if err != nil {
		return err
	}
	defer decoder.Close()
	_, err = io.CopyBuffer(out, onlyReader{decoder}, make([]byte, bufferSize))
	return err
}

// onlyReader hides everything else that a decoder can do, so that io.CopyBuffer uses its buffer.
type onlyReader struct{ io.Reader }
