"""The papers and programs that a run may rest on, and which of them each balancer, adapter and base model rests on.

A new balancer needs an entry in `BIBTEX`, unless its paper is there already, and a line in `OF_BALANCER`.
"""

#: torchjd asks for its authors' paper where its rules are used.
_TORCHJD = "quinton2024jacobian"
#: Class name of a balancer -> keys of the papers that its rule comes from.
OF_BALANCER: dict[str, tuple[str, ...]] = {
    "AlignedMTL": ("senushkin2023alignedmtl", _TORCHJD),
    "CAGrad": ("liu2021cagrad", _TORCHJD),
    "CoBa": ("gong2024coba",),
    "DWA": ("liu2019mtan", _TORCHJD),
    "FAMO": ("liu2023famo",),
    "Fixed": (),
    "GeometricMean": ("chennupati2019multinet", _TORCHJD),
    "GradNorm": ("chen2018gradnorm",),
    "IMTLG": ("liu2021imtl", _TORCHJD),
    "IMTLL": ("liu2021imtl", _TORCHJD),
    "LBTW": ("liu2019lbtw",),
    "MGDA": ("sener2018mgda", "desideri2012mgda", _TORCHJD),
    "MetaWeighting": ("mao2022metaweighting",),
    "NashMTL": ("navon2022nashmtl", _TORCHJD),
    "PCGrad": ("yu2020pcgrad", _TORCHJD),
    "RLW": ("lin2022rlw", _TORCHJD),
    "STCH": ("lin2024stch", _TORCHJD),
    "TokenMean": ("liu2023mftcoder",),
    "UPGrad": (_TORCHJD,),
    "UW": ("kendall2018uw", _TORCHJD),
    "Uniform": (),
}

#: Parts of a base model's name, in lower case -> its paper.
OF_BASE_MODEL = {"smollm2": "allal2025smollm2"}

#: Every entry, once; fields that could not be confirmed are left out.
BIBTEX = r"""
@inproceedings{gong2024coba,
  title = {{CoBa}: Convergence Balancer for Multitask Finetuning of Large Language Models},
  author = {Gong, Zi and Yu, Hang and Liao, Cong and Liu, Bingchang and Chen, Chaoyu and Li, Jianguo},
  booktitle = {Proceedings of the 2024 Conference on Empirical Methods in Natural Language Processing},
  pages = {8063--8077},
  publisher = {Association for Computational Linguistics},
  year = {2024},
  url = {https://aclanthology.org/2024.emnlp-main.459}
}

@inproceedings{chen2018gradnorm,
  title = {{GradNorm}: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks},
  author = {Chen, Zhao and Badrinarayanan, Vijay and Lee, Chen-Yu and Rabinovich, Andrew},
  booktitle = {Proceedings of the 35th International Conference on Machine Learning},
  pages = {794--803},
  year = {2018}
}

@inproceedings{liu2019lbtw,
  title = {Loss-Balanced Task Weighting to Reduce Negative Transfer in Multi-Task Learning},
  author = {Liu, Shengchao and Liang, Yingyu and Gitter, Anthony},
  booktitle = {Proceedings of the AAAI Conference on Artificial Intelligence},
  volume = {33},
  pages = {9977--9978},
  year = {2019}
}

@inproceedings{liu2023famo,
  title = {{FAMO}: Fast Adaptive Multitask Optimization},
  author = {Liu, Bo and Feng, Yihao and Stone, Peter and Liu, Qiang},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {36},
  pages = {57226--57243},
  year = {2023}
}

@inproceedings{mao2022metaweighting,
  title = {{MetaWeighting}: Learning to Weight Tasks in Multi-Task Learning},
  author = {Mao, Yuren and Wang, Zekai and Liu, Weiwei and Lin, Xuemin and Xie, Pengtao},
  booktitle = {Findings of the Association for Computational Linguistics: ACL 2022},
  pages = {3436--3448},
  publisher = {Association for Computational Linguistics},
  year = {2022},
  url = {https://aclanthology.org/2022.findings-acl.271}
}

@article{liu2023mftcoder,
  title = {{MFTCoder}: Boosting Code {LLMs} with Multitask Fine-Tuning},
  author = {Liu, Bingchang and Chen, Chaoyu and Liao, Cong and Gong, Zi and Wang, Huan and Lei, Zhichao and
    Liang, Ming and Chen, Dajun and Shen, Min and Zhou, Hailian and Yu, Hang and Li, Jianguo},
  journal = {arXiv preprint arXiv:2311.02303},
  year = {2023}
}

@inproceedings{liu2019mtan,
  title = {End-to-End Multi-Task Learning with Attention},
  author = {Liu, Shikun and Johns, Edward and Davison, Andrew J.},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  pages = {1871--1880},
  year = {2019}
}

@inproceedings{kendall2018uw,
  title = {Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and Semantics},
  author = {Kendall, Alex and Gal, Yarin and Cipolla, Roberto},
  booktitle = {Proceedings of the IEEE Conference on Computer Vision and Pattern Recognition},
  pages = {7482--7491},
  year = {2018}
}

@inproceedings{liu2021imtl,
  title = {Towards Impartial Multi-task Learning},
  author = {Liu, Liyang and Li, Yi and Kuang, Zhanghui and Xue, Jing-Hao and Chen, Yimin and Yang, Wenming and
    Liao, Qingmin and Zhang, Wayne},
  booktitle = {International Conference on Learning Representations},
  year = {2021},
  url = {https://openreview.net/forum?id=IMPnRXEWpvr}
}

@inproceedings{chennupati2019multinet,
  title = {{MultiNet++}: Multi-Stream Feature Aggregation and Geometric Loss Strategy for Multi-Task Learning},
  author = {Chennupati, Sumanth and Sistu, Ganesh and Yogamani, Senthil and Rawashdeh, Samir A.},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition Workshops},
  year = {2019}
}

@inproceedings{lin2024stch,
  title = {Smooth {Tchebycheff} Scalarization for Multi-Objective Optimization},
  author = {Lin, Xi and Zhang, Xiaoyuan and Yang, Zhiyuan and Liu, Fei and Wang, Zhenkun and Zhang, Qingfu},
  booktitle = {International Conference on Machine Learning},
  year = {2024},
  url = {https://openreview.net/forum?id=m4dO5L6eCp}
}

@article{lin2022rlw,
  title = {Reasonable Effectiveness of Random Weighting: A Litmus Test for Multi-Task Learning},
  author = {Lin, Baijiong and Ye, Feiyang and Zhang, Yu and Tsang, Ivor W.},
  journal = {Transactions on Machine Learning Research},
  year = {2022},
  url = {https://openreview.net/forum?id=jjtFD8A1Wx}
}

@inproceedings{sener2018mgda,
  title = {Multi-Task Learning as Multi-Objective Optimization},
  author = {Sener, Ozan and Koltun, Vladlen},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2018}
}

@article{desideri2012mgda,
  title = {Multiple-gradient descent algorithm ({MGDA}) for multiobjective optimization},
  author = {D{\'e}sid{\'e}ri, Jean-Antoine},
  journal = {Comptes Rendus Math{\'e}matique},
  volume = {350},
  number = {5--6},
  pages = {313--318},
  year = {2012}
}

@inproceedings{yu2020pcgrad,
  title = {Gradient Surgery for Multi-Task Learning},
  author = {Yu, Tianhe and Kumar, Saurabh and Gupta, Abhishek and Levine, Sergey and Hausman, Karol and
    Finn, Chelsea},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {33},
  year = {2020}
}

@inproceedings{senushkin2023alignedmtl,
  title = {Independent Component Alignment for Multi-Task Learning},
  author = {Senushkin, Dmitry and Patakin, Nikolay and Kuznetsov, Arseny and Konushin, Anton},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  pages = {20083--20093},
  year = {2023}
}

@inproceedings{liu2021cagrad,
  title = {Conflict-Averse Gradient Descent for Multi-task Learning},
  author = {Liu, Bo and Liu, Xingchao and Jin, Xiaojie and Stone, Peter and Liu, Qiang},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {34},
  pages = {18878--18890},
  year = {2021}
}

@inproceedings{navon2022nashmtl,
  title = {Multi-Task Learning as a Bargaining Game},
  author = {Navon, Aviv and Shamsian, Aviv and Achituve, Idan and Maron, Haggai and Kawaguchi, Kenji and
    Chechik, Gal and Fetaya, Ethan},
  booktitle = {International Conference on Machine Learning},
  pages = {16428--16446},
  year = {2022}
}

@article{quinton2024jacobian,
  title = {{Jacobian} Descent for Multi-Objective Optimization},
  author = {Quinton, Pierre and Rey, Val{\'e}rian},
  journal = {arXiv preprint arXiv:2406.16232},
  year = {2024}
}

@inproceedings{hu2022lora,
  title = {{LoRA}: Low-Rank Adaptation of Large Language Models},
  author = {Hu, Edward J. and Shen, Yelong and Wallis, Phillip and Allen-Zhu, Zeyuan and Li, Yuanzhi and
    Wang, Shean and Wang, Lu and Chen, Weizhu},
  booktitle = {International Conference on Learning Representations},
  year = {2022}
}

@article{kalajdzievski2023rslora,
  title = {A Rank Stabilization Scaling Factor for Fine-Tuning with {LoRA}},
  author = {Kalajdzievski, Damjan},
  journal = {arXiv preprint arXiv:2312.03732},
  year = {2023}
}

@inproceedings{liu2024dora,
  title = {{DoRA}: Weight-Decomposed Low-Rank Adaptation},
  author = {Liu, Shih-Yang and Wang, Chien-Yi and Yin, Hongxu and Molchanov, Pavlo and Wang, Yu-Chiang Frank and
    Cheng, Kwang-Ting and Chen, Min-Hung},
  booktitle = {International Conference on Machine Learning},
  year = {2024}
}

@inproceedings{dettmers2023qlora,
  title = {{QLoRA}: Efficient Finetuning of Quantized {LLMs}},
  author = {Dettmers, Tim and Pagnoni, Artidoro and Holtzman, Ari and Zettlemoyer, Luke},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {36},
  year = {2023}
}

@inproceedings{liu2022ia3,
  title = {Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning},
  author = {Liu, Haokun and Tam, Derek and Muqeeth, Mohammed and Mohta, Jay and Huang, Tenghao and
    Bansal, Mohit and Raffel, Colin},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {35},
  pages = {1950--1965},
  year = {2022}
}

@misc{allal2025smollm2,
  title = {{SmolLM2}: When Smol Goes Big -- Data-Centric Training of a Small Language Model},
  author = {Ben Allal, Loubna and Lozhkov, Anton and Bakouch, Elie and Bl{\'a}zquez, Gabriel Mart{\'i}n and
    Penedo, Guilherme and Tunstall, Lewis and Marafioti, Andr{\'e}s and Kydl{\'i}{\v{c}}ek, Hynek and
    Lajar{\'i}n, Agust{\'i}n Piqueres and Srivastav, Vaibhav and Lochner, Joshua and Fahlgren, Caleb and
    Nguyen, Xuan-Son and Fourrier, Cl{\'e}mentine and Burtenshaw, Ben and Larcher, Hugo and Zhao, Haojun and
    Zakka, Cyril and Morlon, Mathieu and Raffel, Colin and von Werra, Leandro and Wolf, Thomas},
  year = {2025},
  eprint = {2502.02737},
  archiveprefix = {arXiv}
}

@misc{falcon2019lightning,
  title = {{PyTorch Lightning}},
  author = {Falcon, William and {The PyTorch Lightning team}},
  year = {2019},
  doi = {10.5281/zenodo.3828935}
}

@inproceedings{wolf2020transformers,
  title = {Transformers: State-of-the-Art Natural Language Processing},
  author = {Wolf, Thomas and Debut, Lysandre and Sanh, Victor and Chaumond, Julien and Delangue, Clement and
    Moi, Anthony and Cistac, Pierric and Rault, Tim and Louf, R{\'e}mi and Funtowicz, Morgan and Davison, Joe and
    Shleifer, Sam and von Platen, Patrick and Ma, Clara and Jernite, Yacine and Plu, Julien and Xu, Canwen and
    Le Scao, Teven and Gugger, Sylvain and Drame, Mariama and Lhoest, Quentin and Rush, Alexander M.},
  booktitle = {Proceedings of the 2020 Conference on Empirical Methods in Natural Language Processing: System
    Demonstrations},
  pages = {38--45},
  publisher = {Association for Computational Linguistics},
  year = {2020},
  url = {https://aclanthology.org/2020.emnlp-demos.6/}
}

@misc{mangrulkar2022peft,
  title = {{PEFT}: State-of-the-art Parameter-Efficient Fine-Tuning methods},
  author = {Mangrulkar, Sourab and Gugger, Sylvain and Debut, Lysandre and Belkada, Younes and Paul, Sayak and
    Bossan, Benjamin and Tietz, Marian},
  year = {2022},
  howpublished = {\url{https://github.com/huggingface/peft}}
}
"""
