"""The report, ``python -m mx_ops``: what every format and scale mode does to tensors, and whether all ways to run the ops agree.

Without a file it measures a small transformer made on the spot. Given checkpoints it measures those. A folder of safetensors files is one
checkpoint. Files are read in chunks: whatever their size, the report takes at most 512 MB more than torch itself. Reading safetensors, and
the bar on a terminal, need ``pip install 'mx_ops[checkpoints]'``. ``python -m mx_ops --help`` says what the columns are.

This is what ``python -m mx_ops model.safetensors`` prints below its first two lines (versions and backend) for all-MiniLM-L6-v2, a trained
sentence encoder of 91 MB, the one that the tests install:

    model.safetensors: 103 tensors, 22713216 values
      skipped, torch.int64: embeddings.position_ids
      format      scale mode  bits/value  SQNR dB  largest error  clipped %
      mxfp4       floor            4.250    18.64          1.915      2.520
      mxfp4       ceil             4.250    16.82         0.4761      0.000
      mxfp4       rceil            4.250    18.56         0.4761      0.000
      mxfp4       even             4.250    18.90         0.4761      0.953
      mxfp8_e4m3  floor            8.250    30.42         0.9148      0.862
      mxfp8_e4m3  ceil             8.250    31.53         0.2354      0.000
      mxfp8_e4m3  rceil            8.250    31.53         0.2354      0.000
      mxfp8_e4m3  even             8.250    31.06         0.2354      0.606
      mxfp8_e5m2  floor            8.250    25.31         0.9148      0.862
      mxfp8_e5m2  ceil             8.250    25.55         0.4342      0.000
      mxfp8_e5m2  rceil            8.250    25.55         0.4342      0.000
      mxfp8_e5m2  even             8.250    25.55         0.4342      0.375
      mxfp6_e2m3  floor            8.250    30.90         0.4148      0.361
      mxfp6_e2m3  ceil             8.250    28.77         0.2354      0.000
      mxfp6_e2m3  rceil            8.250    30.91         0.2354      0.000
      mxfp6_e2m3  even             8.250    30.96         0.2354      0.169
      mxfp6_e3m2  floor            8.250    25.31         0.9148      0.862
      mxfp6_e3m2  ceil             8.250    25.55         0.4342      0.000
      mxfp6_e3m2  rceil            8.250    25.55         0.4342      0.000
      mxfp6_e3m2  even             8.250    25.55         0.4342      0.375
      mxint8      floor            8.250    41.76        0.03119      0.039
      mxint8      ceil             8.250    35.75        0.05922      0.000
      mxint8      rceil            8.250    41.70        0.03119      0.000
      mxint8      even             8.250    41.73        0.03119      0.019
      nvfp4       -                4.500    20.44         0.2086      3.446

    fake_quant: same bits as dequantize(quantize)
    torch.compile: same bits as eager
    torch.export, saved and loaded: same bits as eager
"""
