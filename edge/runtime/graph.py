"""The flat graph: one training or prediction step as a list of plain operations on static shapes.

It is lowered once from torch (`trainer.compile`), executed as it is by the numpy runtime, and written as ONNX
and .tflite. Tensors are float32 and in row-major order; images are NCHW; every shape is known. Each node yields
one tensor. Names are unique (static single assignment), nodes are in topological order.

    op              inputs          attributes                      result
    add sub mul div a, b            -                               elementwise, numpy broadcasting
    maximum         a, b            -                               elementwise, numpy broadcasting
    neg exp log sqrt tanh sigmoid relu      x                       elementwise
    relu_grad       g, y            -                               g * (y > 0); y is relu's input or output
    log_softmax     x               -                               over the last axis
    sum max         x               axes, keepdims                  reduction
    max_grad        g, x, y         axes                            g shared among the positions where x equals y (keepdims layout)
    matmul          a, b            transpose_a, transpose_b        2-D
    reshape         x               shape
    transpose       x               perm
    expand          x               shape                           numpy broadcasting to shape
    conv2d          x, w            stride, padding                 (B,C,H,W), (O,C,h,w) -> (B,O,H',W')
    conv2d_dx       g, w            stride, padding, shape          gradient on x, shape of x
    conv2d_dw       g, x            stride, padding, shape          gradient on w, shape of w
    max_pool2d      x               size                            stride = size, (H, W) cut to a whole multiple
    max_pool2d_grad g, x, y         size                            g where x is the window's maximum (ties: see the writer)
    concat          a, b, ...       axis
    slice           x               axis, start, stop
    constant        -               (value in `constants`)

stride, padding and size are pairs (rows, columns). 1-D convolutions are lowered with H = 1.
"""
